"""Pairs tool calls with their results, so that strict providers accept the prompt.

A group is an assistant message with tool calls and the TOOL messages directly after it. Ids are matched only within
a group, because providers reuse ids in later turns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from parley_server.core.content import complete
from parley_server.core.model import (
    Message,
    Part,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)


def paired(messages: Iterable[Message]) -> list[Message]:
    """The messages with every tool result directly after its call.

    Message order does not change, so that prompts of later turns start with the same messages (providers cache them).
    Calls without a result are omitted, and so are messages left without content. If a call has several results, the
    newest is used. A result whose call is in another group becomes user text at the same place.
    """
    names: dict[str, str] = {}
    kept: list[Message] = []
    for group in _groups(messages):
        first = group[0]
        if len(group) == 1 and first.role is not Role.TOOL and not calls_of(first):
            kept += _with_parts(first, first.parts)
        else:
            kept += _paired_group(group, names)
    return kept


def unknown_results(path: Iterable[Message], new: Iterable[Message]) -> list[tuple[str, str]]:
    """The tool results among the new messages whose call does not precede them, oldest first.

    Each is a path such as `[0].parts[1]`, and the tool call id."""
    new = list(new)
    if not any(message.role is Role.TOOL for message in new):
        return []
    called = {call.id for message in path for call in calls_of(message)}
    unknown = []
    for i, message in enumerate(new):
        called |= {call.id for call in calls_of(message)}
        for j, part in enumerate(message.parts):
            if isinstance(part, ToolResultPart) and part.tool_call_id not in called:
                unknown.append((f"[{i}].parts[{j}]", part.tool_call_id))
    return unknown


def calls_of(message: Message) -> list[ToolCallPart]:
    """The tool calls of a message, whole or not."""
    return [part for part in message.parts if isinstance(part, ToolCallPart)]


def _groups(messages: Iterable[Message]) -> Iterator[list[Message]]:
    """Each message with the TOOL messages directly after it."""
    group: list[Message] = []
    for message in messages:
        if group and message.role is not Role.TOOL:
            yield group
            group = []
        group.append(message)
    if group:
        yield group


def _paired_group(group: list[Message], names: dict[str, str]) -> list[Message]:
    """Pairs one group. `names` maps call ids to function names; the group's calls are added to it."""
    head, results = (None, group) if group[0].role is Role.TOOL else (group[0], group[1:])
    calls = [call for call in calls_of(head) if complete(call)] if head else []
    names |= {call.id: call.name for call in calls}
    wanted = _counted([call.id for call in calls])
    answering = _newest(results, wanted)
    answered = _counted([part.tool_call_id for part in answering.values()])
    kept = [] if head is None else _with_parts(head, _answered_calls(head.parts, answered))
    strays: list[Message] = []
    for index, message in enumerate(results):
        mine = tuple(part for at, part in answering.items() if at[0] == index)
        kept += _with_parts(message, mine)
        stray = tuple(
            _as_text(part, names)
            for part in message.parts
            if isinstance(part, ToolResultPart) and part.tool_call_id not in wanted
        )
        strays += _with_parts(msgspec.structs.replace(message, role=Role.USER), stray)
    return kept + strays


def _newest(results: list[Message], wanted: dict[str, int]) -> dict[tuple[int, int], ToolResultPart]:
    """The newest results of each id, as many as the id has calls, by (message index, part index), oldest first."""
    room = dict(wanted)
    chosen: dict[tuple[int, int], ToolResultPart] = {}
    for index in reversed(range(len(results))):
        for number in reversed(range(len(results[index].parts))):
            part = results[index].parts[number]
            if isinstance(part, ToolResultPart) and room.get(part.tool_call_id, 0):
                room[part.tool_call_id] -= 1
                chosen[index, number] = part
    return dict(sorted(chosen.items()))


def _answered_calls(parts: tuple[Part, ...], answered: dict[str, int]) -> tuple[Part, ...]:
    room = dict(answered)
    kept: list[Part] = []
    for part in parts:
        if isinstance(part, ToolCallPart):
            if not complete(part) or not room.get(part.id, 0):
                continue
            room[part.id] -= 1
        kept.append(part)
    return tuple(kept)


def _with_parts(message: Message, parts: tuple[Part, ...]) -> list[Message]:
    """The message with these parts; an empty list if they have no content."""
    if all(isinstance(part, ReasoningPart) for part in parts):
        return []
    return [message if parts == message.parts else msgspec.structs.replace(message, parts=parts)]


def _as_text(result: ToolResultPart, names: dict[str, str]) -> TextPart:
    name = names.get(result.tool_call_id) or result.tool_call_id
    return TextPart(text=f"[result of {name}] {result.content}")


def _counted(ids: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for each in ids:
        counts[each] = counts.get(each, 0) + 1
    return counts
