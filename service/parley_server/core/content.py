"""Builds an answer from log entries, and decides whether it counts as a message."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from parley_server.core.counts import credible
from parley_server.core.events import Entry, ReasoningDelta, Snapshot, TextDelta, ToolCallDelta, UsageUpdate
from parley_server.core.model import Part, ReasoningPart, TextPart, ToolCallPart, Usage


class Answer(msgspec.Struct, frozen=True):
    """The parts in the order in which they started, and the provider's last plausible usage."""

    parts: tuple[Part, ...]
    usage: Usage | None = None

    @property
    def text_length(self) -> int:
        """The length of the text in characters, without reasoning and tool calls."""
        return sum(len(part.text) for part in self.parts if isinstance(part, TextPart))

    @property
    def is_message(self) -> bool:
        """Whether it has text or a complete tool call. Otherwise no message is stored."""
        return self.has_call or any(isinstance(part, TextPart) and part.text for part in self.parts)

    @property
    def has_call(self) -> bool:
        """Whether it has a complete tool call."""
        return any(isinstance(part, ToolCallPart) and complete(part) for part in self.parts)


def complete(call: ToolCallPart) -> bool:
    """Whether a tool call has an id, a name, and valid JSON arguments (or none)."""
    if not call.id or not call.name:
        return False
    if not call.arguments:
        return True
    try:
        msgspec.json.decode(call.arguments)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def answer_of(entries: Iterable[Entry]) -> Answer:
    """The answer that these log entries form."""
    runs: list[list[Entry]] = []
    calls: dict[int, list[Entry]] = {}
    before: tuple[Part, ...] = ()
    usage: Usage | None = None
    for entry in entries:
        if isinstance(entry, UsageUpdate):
            usage = entry.usage if credible(entry.usage) else usage
        elif isinstance(entry, Snapshot):
            before = entry.reply.message.parts if entry.reply.message else ()
            runs, calls = [], {}
        elif isinstance(entry, ToolCallDelta):
            if entry.index not in calls:
                calls[entry.index] = []
                runs.append(calls[entry.index])
            calls[entry.index].append(entry)
        elif isinstance(entry, TextDelta | ReasoningDelta):
            if not runs or not _continues(runs[-1][-1], entry):
                runs.append([])
            runs[-1].append(entry)
    return Answer(before + tuple(_part(run) for run in runs), usage)


def _continues(last: Entry, entry: Entry) -> bool:
    return type(last) is type(entry) and not (isinstance(last, ReasoningDelta) and last.signature)


def _part(run: list[Entry]) -> Part:
    first = run[0]
    if isinstance(first, TextDelta):
        return TextPart(text="".join([entry.text for entry in run if isinstance(entry, TextDelta)]))
    if isinstance(first, ReasoningDelta):
        pieces = [entry for entry in run if isinstance(entry, ReasoningDelta)]
        return ReasoningPart(text="".join([piece.text for piece in pieces]), signature=pieces[-1].signature)
    deltas = [entry for entry in run if isinstance(entry, ToolCallDelta)]
    return ToolCallPart(
        id=next((delta.id for delta in deltas if delta.id), ""),
        name=next((delta.name for delta in deltas if delta.name), ""),
        arguments="".join([delta.arguments for delta in deltas]),
    )
