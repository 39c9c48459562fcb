"""Selects the messages of a branch that a prompt may contain, and estimates the tokens of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from parley_server.core.context.cut import Sized, turn_start
from parley_server.core.context.estimate import IMAGE_TOKENS, MESSAGE_TOKENS, Rates, content_size
from parley_server.core.events import utf8_size
from parley_server.core.model import ContextPolicy, Message, Role
from parley_server.core.store_types import PromptSource


class LeftOut(NamedTuple):
    """Messages of a branch that a prompt does not contain, and why."""

    reason: str
    messages: tuple[Message, ...]


class Sizing(msgspec.Struct, frozen=True, kw_only=True):
    """How large a prompt may be, and how its tokens are estimated.

    budget: tokens of the whole prompt (None: no limit). history_ratio: tokens of a byte of the history; `rates` has
    those of the rest. extra_bytes, extra_tokens: what the request has beside messages, such as tools. cache_min: the
    fewest tokens that the provider caches."""

    budget: float | None = None
    rates: Rates = Rates()
    history_ratio: float = Rates().per_byte
    extra_bytes: int = 0
    extra_tokens: int = 0
    cache_min: int = 0


def sized_branch(source: PromptSource, new: Sequence[Message], sizing: Sizing) -> tuple[list[Sized], list[LeftOut]]:
    """The messages of history and input that the policy shows, oldest first, without regard to a budget."""
    path, left_out = list(source.path), []
    positions = list(source.positions) or list(range(1, len(path) + 1))
    if source.summary is not None and path and path[0].id == source.summary.message_id:
        left_out.append(LeftOut("covered by the summary", (path[0],)))
        path, positions = path[1:], positions[1:]
    following = (source.positions or positions or (0,))[-1] + 1
    items = [Sized(message, position) for message, position in zip(path, positions, strict=True)]
    items += [Sized(message, position) for position, message in enumerate(new, following)]
    skipped = _refused(items, len(new), source.refused)
    skipped |= {at for at, item in enumerate(items) if item.message.failed}
    if skipped:
        reason = "failed, or refused as too long"
        left_out.append(LeftOut(reason, tuple([items[at].message for at in sorted(skipped)])))
        items = [item for at, item in enumerate(items) if at not in skipped]
    _set_reminders(items, source.conversation.context)
    first = _first_of_newest(items, len(new), source.conversation.context.max_messages)
    if first:
        left_out.append(LeftOut("older than max_messages", tuple([item.message for item in items[:first]])))
        items = items[first:]
    _set_sizes(items, source.conversation.context, sizing, new=len(new))
    return items, left_out


def _set_reminders(items: Sequence[Sized], policy: ContextPolicy) -> None:
    """A reminder stands before the first USER message after each position that is a multiple of the interval."""
    interval = policy.reminder_interval
    if not policy.reminder or interval < 1 or not items:
        return
    before = max(1, items[0].position - 1)
    for item in items:
        if item.message.role is Role.USER:
            item.reminder = (item.position - 1) // interval > (before - 1) // interval
            before = item.position


def _set_sizes(items: Sequence[Sized], policy: ContextPolicy, sizing: Sizing, *, new: int) -> None:
    reminder_tokens = MESSAGE_TOKENS + utf8_size(policy.reminder) * sizing.rates.per_byte
    start, history = turn_start(items), len(items) - new
    for at, item in enumerate(items):
        item.size_bytes, item.images = content_size(item.message.parts, with_reasoning=at > start)
        ratio = sizing.history_ratio if at < history else sizing.rates.per_byte
        item.tokens = MESSAGE_TOKENS + item.size_bytes * ratio + item.images * IMAGE_TOKENS
        if item.reminder:
            item.size_bytes += utf8_size(policy.reminder)
            item.tokens += reminder_tokens


def _first_of_newest(items: Sequence[Sized], new: int, max_messages: int) -> int:
    """The index of the first message within the limit; never a tool result of the history, whose call is left out."""
    if not max_messages:
        return 0
    history = len(items) - new
    first = max(0, min(history, len(items) - max_messages))
    while first < history and items[first].message.role is Role.TOOL:
        first += 1
    return first


def _refused(items: Sequence[Sized], new: int, refused: Mapping[str, str]) -> set[int]:
    """Indexes of history that a provider refused as too large, if other input follows it.

    With that input, the provider would refuse every later prompt. Input that was answered by a later reply stays."""
    found: set[int] = set()
    follows: set[str] = set()  # requests whose input follows, up to the next answer
    for at in reversed(range(len(items))) if refused else ():
        message = items[at].message
        if message.role is Role.ASSISTANT:
            follows = set()
            continue
        request = refused.get(message.id, "")
        if request and follows - {request} and at < len(items) - new:
            found.add(at)
        follows.add(request)
    return found
