"""Chooses which messages of a branch a prompt contains, within a budget of tokens.

The oldest messages go first. The place of the cut stands still for several turns, so that prompts of these turns start
alike and the provider's cache holds their beginning.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from parley_server.core.model import Message, Role


class Sized(msgspec.Struct):
    """A message with its position in the conversation, its size in bytes, and its estimated tokens.

    `reminder`: the conversation's reminder stands before it; `tokens` includes it."""

    message: Message
    position: int
    size_bytes: int = 0
    images: int = 0
    tokens: float = 0.0
    reminder: bool = False


def turn_start(items: Sequence[Sized]) -> int:
    """The index of the newest USER message, with which the current turn starts; without one, of the last message that
    is no tool result (0 if there is none)."""
    roles = [item.message.role for item in items]
    for at in reversed(range(len(roles))):
        if roles[at] is Role.USER:
            return at
    return next((at for at in reversed(range(len(roles))) if roles[at] is not Role.TOOL), 0)


def within_budget(items: Sequence[Sized], room: float) -> tuple[list[Sized], list[Sized]]:
    """The items to show, whose tokens are at most `room`, and the older ones to leave out.

    The cut of the history is calculated for the turn's USER message, so that the tool calls that follow it do not move
    it. Only if they do not fit, the history is cut again with them, and if they do not fit without it either, the
    oldest calls go, with their results. The USER message and the newest call always stay.
    """
    start = turn_start(items)
    history, question, loop = items[:start], items[start : start + 1], items[start + 1 :]
    question_tokens, loop_tokens = _tokens(question), _tokens(loop)
    first = cut_of(history, room - question_tokens)
    if _tokens(history[first:]) + question_tokens + loop_tokens > room:
        first = cut_of(history, room - question_tokens - loop_tokens)
    skipped = _calls_to_skip(loop, room - question_tokens)
    return [*history[first:], *question, *loop[skipped:]], [*history[:first], *loop[:skipped]]


def cut_of(history: Sequence[Sized], room: float) -> int:
    """The index of the first message to show of a history that may have `room` tokens.

    Of the n newest messages that fit, it is the oldest whose position is a multiple of the largest power of two up to
    n / 4, then the next USER message. Positions of a branch have gaps: the first message behind a multiple counts."""
    fits, left = len(history), room
    while fits and history[fits - 1].tokens <= left:
        fits -= 1
        left -= history[fits].tokens
    if not fits:
        return 0
    step = 1 << (max(1, (len(history) - fits) // 4).bit_length() - 1)
    at = fits
    while at < len(history) and history[at].position // step == history[at - 1].position // step:
        at += 1
    if at == len(history):
        at = fits
    while at < len(history) and history[at].message.role is not Role.USER:
        at += 1
    return at


def _calls_to_skip(loop: Sequence[Sized], room: float) -> int:
    """How many messages at the start of the turn's tool calls do not fit: whole groups of a message and its results."""
    tokens, skipped = _tokens(loop), 0
    starts = [at for at, item in enumerate(loop) if item.message.role is not Role.TOOL]
    for start in starts[1:]:
        if tokens <= room:
            break
        tokens -= _tokens(loop[skipped:start])
        skipped = start
    return skipped


def _tokens(items: Sequence[Sized]) -> float:
    return sum([item.tokens for item in items])
