"""Builds the messages of a prompt from a branch of a conversation and the new messages.

Order: system sections, summary, history with reminders, new messages. The post-system text comes directly before the
newest USER message. What is shown keeps its place in later turns, so that their prompts start alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from parley_server.core.context.branch import LeftOut, Sizing, sized_branch
from parley_server.core.context.cut import Sized, turn_start, within_budget
from parley_server.core.context.estimate import MESSAGE_TOKENS
from parley_server.core.context.groups import calls_of, paired
from parley_server.core.events import utf8_size
from parley_server.core.model import ImagePart, Kept, Message, Part, PromptMessage, Role, TextPart
from parley_server.core.store_types import PromptSource, StoredImage

SECTION_BREAK = "\n---\n"
SUMMARY_TITLE = "Summary of the conversation before the next message:\n"

_ROLES = {Role.USER: "user", Role.ASSISTANT: "assistant", Role.TOOL: "tool"}


class Row(msgspec.Struct):
    """A message of a prompt, and the id of the stored message that it shows (empty for system text)."""

    message: PromptMessage
    message_id: str = ""


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """The messages of a prompt (`rows` has their ids), and their measures.

    tokens: the estimate of the whole prompt. least_tokens: of what cannot be left out. text_bytes: its text in UTF-8.
    image_bytes: its images. left_out: what the branch contains and the prompt does not."""

    rows: tuple[Row, ...]
    messages: tuple[PromptMessage, ...]
    tokens: int
    least_tokens: int
    text_bytes: int
    images: int
    image_bytes: int
    left_out: tuple[LeftOut, ...]


def build_messages(
    source: PromptSource,
    new: Sequence[Message],
    *,
    system: Sequence[str],
    sizing: Sizing = Sizing(),  # noqa: B008 - an immutable value
    with_kept: bool = True,
) -> Built:
    """The prompt of a branch and new messages.

    `context.max_messages` limits history and new messages together to the newest ones (0: no limit); new messages are
    always kept by it. A budget may leave out any message but the newest USER message. With `with_kept`, messages of the
    unfinished tool turn have the wire items that the vendor sent."""
    frame = _Frame(source, system, sizing)
    items, left_out = sized_branch(source, new, sizing)
    cut: list[Sized] = []
    if sizing.budget is not None and frame.tokens + _tokens(items) > sizing.budget:
        items, cut = within_budget(items, sizing.budget - frame.tokens)
    start = turn_start(items)
    shown = paired([item.message for item in items])
    rows = _rows(source, items, shown, kept=_kept(source, items[start:], shown) if with_kept else {})
    question = items[start].message if items and items[start].message.role is Role.USER else None
    rows = frame.around(rows, question, before=_tokens(items[:start]), after=_tokens(items[start:]))
    images = sum([item.images for item in items])
    return Built(
        rows=tuple(rows),
        messages=tuple([row.message for row in rows]),
        tokens=math.ceil(frame.tokens + _tokens(items)),
        least_tokens=math.ceil(frame.tokens + _tokens(items[start : start + 1])),
        text_bytes=frame.size_bytes + sum([item.size_bytes for item in items]),
        images=images,
        image_bytes=_image_bytes(rows) if images else 0,
        left_out=(*left_out, *_also_left_out(cut, items, shown)),
    )


class _Frame:
    """The system texts of a prompt: sections, summary, post-system text; and where providers should cache it."""

    def __init__(self, source: PromptSource, system: Sequence[str], sizing: Sizing) -> None:
        sections = SECTION_BREAK.join([section for section in system if section])
        summary = SUMMARY_TITLE + source.summary.text if source.summary is not None else ""
        self._head = [sections, summary]
        self._post_system = source.conversation.post_system
        self._sizing = sizing
        self.size_bytes = sizing.extra_bytes + sum([utf8_size(text) for text in (*self._head, self._post_system)])
        self.tokens = sizing.rates.fixed + self._tokens_of(*self._head, self._post_system)

    def around(self, rows: list[Row], question: Message | None, *, before: float, after: float) -> list[Row]:
        """The rows of the messages with the system texts; `before` and `after` are the tokens of the messages before
        the question and from it on."""
        at = next((i for i in reversed(range(len(rows))) if question and rows[i].message_id == question.id), len(rows))
        history, turn = rows[:at], rows[at:]
        sections, summary, post_system = ([_system(text)] if text else [] for text in (*self._head, self._post_system))
        self._mark(sections, self._tokens_of(self._head[0]))
        # A reminder at the end may become a part of the next message, which is another one in the next turn.
        last = next((i for i in reversed(range(len(history))) if history[i].message.role != "system"), -1)
        self._mark(history[: last + 1], self._tokens_of(*self._head) + before)
        if turn and turn[-1].message.role == "tool":
            self._mark(turn, self.tokens + before + after)
        return [*sections, *summary, *history, *post_system, *turn]

    def _mark(self, rows: list[Row], tokens: float) -> None:
        """Mark the last of these rows if the prompt up to its end, of so many tokens, is large enough to be cached."""
        if rows and tokens >= self._sizing.cache_min:
            rows[-1].message = msgspec.structs.replace(rows[-1].message, cache_mark=True)

    def _tokens_of(self, *texts: str) -> float:
        sizing = self._sizing
        size = sizing.extra_bytes + sum([utf8_size(text) for text in texts])
        return sizing.extra_tokens + size * sizing.rates.per_byte + MESSAGE_TOKENS * sum(map(bool, texts))


def _rows(
    source: PromptSource, items: Sequence[Sized], shown: Sequence[Message], *, kept: dict[str, Kept]
) -> list[Row]:
    images = {image.id: image for image in source.images}
    reminded = {item.message.id for item in items if item.reminder}
    reminder = source.conversation.context.reminder
    rows: list[Row] = []
    for message in shown:
        parts = _with_bytes(message.parts, images)
        if not parts:
            continue
        if reminded and message.id in reminded:
            rows.append(_system(reminder))
        own = kept.get(message.id) if kept else None
        rows.append(Row(PromptMessage(role=_ROLES[message.role], parts=parts, kept=own), message.id))
    return rows


def _kept(source: PromptSource, turn: Sequence[Sized], shown: Sequence[Message]) -> dict[str, Kept]:
    """The wire items of the turn's messages whose calls are all shown; other items would be calls without a result."""
    if not source.kept:
        return {}
    calls = {item.message.id: calls_of(item.message) for item in turn if item.message.id in source.kept}
    return {each.id: source.kept[each.id] for each in shown if each.id in calls and calls_of(each) == calls[each.id]}


def _also_left_out(cut: Sequence[Sized], items: Sequence[Sized], shown: Sequence[Message]) -> list[LeftOut]:
    left_out = [LeftOut("over the token budget", tuple([item.message for item in cut]))] if cut else []
    if len(shown) < len(items):
        ids = {message.id for message in shown}
        empty = tuple([item.message for item in items if item.message.id not in ids])
        left_out.append(LeftOut("no content, or tool calls without a result", empty))
    return left_out


def _image_bytes(rows: Sequence[Row]) -> int:
    parts = [part for row in rows for part in row.message.parts if isinstance(part, ImagePart)]
    return sum([len(part.data) + len(part.url) for part in parts])


def _system(text: str) -> Row:
    return Row(PromptMessage(role="system", parts=(TextPart(text=text),)))


def _with_bytes(parts: tuple[Part, ...], stored: dict[str, StoredImage]) -> tuple[Part, ...]:
    """The parts with stored images in place of their ids, without images that are gone."""
    for part in parts:
        if isinstance(part, ImagePart) and part.image_id:
            return tuple([each for part in parts if (each := _image(part, stored)) is not None])
    return parts


def _image(part: Part, stored: dict[str, StoredImage]) -> Part | None:
    if not isinstance(part, ImagePart) or not part.image_id:
        return part
    image = stored.get(part.image_id)
    if image is None:
        return None
    return ImagePart(mime_type=image.mime_type, data=image.data, size_bytes=len(image.data))


def _tokens(items: Sequence[Sized]) -> float:
    return sum([item.tokens for item in items])
