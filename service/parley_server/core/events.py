"""Entries of a reply's log, and how adjacent entries merge. A numbered entry does not change."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from parley_server.core.model import FinishReason, Reply, ReplyError, Usage


class Entry(msgspec.Struct, frozen=True):
    """Base of all log entries."""


class TextDelta(Entry, frozen=True, tag="text"):
    """Text to append, in whole code points."""

    text: str


class ReasoningDelta(Entry, frozen=True, tag="reasoning"):
    """Reasoning text to append. A signature covers all reasoning before it."""

    text: str
    signature: bytes = b""


class ToolCallDelta(Entry, frozen=True, tag="tool_call"):
    """A piece of a tool call; `id` and `name` come with the first piece of an index."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class UsageUpdate(Entry, frozen=True, tag="usage"):
    """The provider's token counts so far (cumulative)."""

    usage: Usage


class Unknown(Entry, frozen=True, tag="unknown"):
    """An entry written by a replica of a newer release. It has a number, but readers do not get it."""


class Snapshot(Entry, frozen=True, tag="snapshot"):
    """Replaces all content so far."""

    reply: Reply


class Finished(Entry, frozen=True, tag="finished"):
    """The end of a reply that completed or was cancelled."""

    reason: FinishReason
    provider_reason: str
    usage: Usage
    model: str
    cancel_reason: str = ""
    provider: str = ""


class Failed(Entry, frozen=True, tag="failed"):
    """The end of a reply that failed."""

    error: ReplyError
    usage: Usage
    model: str = ""
    provider: str = ""


Terminal = Finished | Failed
Content = TextDelta | ReasoningDelta | ToolCallDelta | UsageUpdate | Unknown


class Chunk(msgspec.Struct, frozen=True):
    """What a reader gets: one entry, possibly merged from several, and the sequence number of the last of them."""

    sequence: int
    entry: Entry


def size_of(entry: Entry) -> int:
    """The size of the entry's content in bytes of UTF-8."""
    if isinstance(entry, TextDelta):
        return utf8_size(entry.text)
    if isinstance(entry, ReasoningDelta):
        return utf8_size(entry.text) + len(entry.signature)
    if isinstance(entry, ToolCallDelta):
        return utf8_size(entry.arguments) + utf8_size(entry.name) + utf8_size(entry.id)
    return 0


def utf8_size(text: str) -> int:
    """The size of `text` in bytes of UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def utf8_prefix(text: str, size: int) -> str:
    """The longest prefix of `text` in whole code points that has at most `size` bytes in UTF-8."""
    return text.encode()[:size].decode(errors="ignore")


def merge(entries: Iterable[Entry]) -> list[tuple[int, Entry]]:
    """Merges adjacent entries of the same kind. Each result has the number of entries consumed so far."""
    merged: list[tuple[int, Entry]] = []
    run: list[Entry] = []
    taken = 0
    for entry in entries:
        if run and not _joins(run[-1], entry):
            merged.append((taken, _join(run)))
            run = []
        run.append(entry)
        taken += 1
    if run:
        merged.append((taken, _join(run)))
    return merged


def _joins(last: Entry, entry: Entry) -> bool:
    if type(last) is not type(entry):
        return False
    if isinstance(last, ToolCallDelta) and isinstance(entry, ToolCallDelta):
        return last.index == entry.index and not entry.id and not entry.name
    if isinstance(last, ReasoningDelta):
        return not last.signature
    return isinstance(last, TextDelta | UsageUpdate | Unknown)


def _join(run: list[Entry]) -> Entry:
    first, last = run[0], run[-1]
    if len(run) == 1 or isinstance(first, UsageUpdate | Unknown):
        return last
    if isinstance(first, TextDelta):
        return TextDelta("".join([entry.text for entry in run if isinstance(entry, TextDelta)]))
    if isinstance(first, ReasoningDelta) and isinstance(last, ReasoningDelta):
        text = "".join([entry.text for entry in run if isinstance(entry, ReasoningDelta)])
        return ReasoningDelta(text, last.signature)
    assert isinstance(first, ToolCallDelta)
    arguments = "".join([entry.arguments for entry in run if isinstance(entry, ToolCallDelta)])
    return ToolCallDelta(first.index, first.id, first.name, arguments)
