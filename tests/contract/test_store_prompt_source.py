"""What `read_turn` returns beside the messages: positions, kept items, usage, summaries; and where a path ends."""

import msgspec
import pytest
from parley_server.core.model import (
    ContextPolicy,
    Kept,
    Message,
    Overflow,
    Role,
    ToolCallPart,
    ToolResultPart,
    Usage,
)
from parley_server.core.store_types import Position, Summary

from tests.contract.store_values import (
    ADA,
    NOW_US,
    SECOND_US,
    accepted,
    answered,
    chain,
    created,
    finalisation,
    summary,
    unique,
    user_message,
)

KEPT = Kept(origin="0123456789abcdef", items=('{"type":"thinking","text":"\\u0000"}', "{}"))
CALL = Message(role=Role.ASSISTANT, parts=(ToolCallPart(id="t", name="f", arguments="{}"),))
SUMMARIZE = ContextPolicy(overflow=Overflow.SUMMARIZE)
COUNTED = Usage(prompt_tokens=100, prompt_bytes=400)


async def read(store, conversation, position=None, **options):
    return await store.read_turn(ADA, conversation.id, position or Position(), has_input=True, **options)


def texts(source) -> list[str]:
    return [message.parts[0].text for message in source.path]


def result(parent: str, call_id: str = "t") -> Message:
    part = ToolResultPart(tool_call_id=call_id, content="42")
    return Message(id=unique("result"), role=Role.TOOL, parts=(part,), parent_id=parent, create_time_us=NOW_US)


async def called(store, conversation, kept: Kept | None = KEPT, **fields):
    """A reply that has called a tool."""
    reply = await accepted(store, conversation, **fields)
    return (await store.finalise(finalisation(reply, message=CALL, kept=kept))).reply


async def test_positions_are_those_in_the_conversation(store):
    one, two, three = chain("1", "2", "3")
    other = user_message("other", parent=one.id)
    conversation = await created(store, ADA, one, two, other, msgspec.structs.replace(three, parent_id=other.id))
    assert (await read(store, conversation)).positions == (1, 3, 4)
    within = await read(store, conversation, Position(after=two.id))
    assert (within.positions, within.stored_messages) == ((1, 2), 4)


# --- kept items


async def test_kept_items_are_read_within_their_turn(store):
    conversation = await created(store)
    first = await called(store, conversation)
    tool = result(first.message_id)
    second = await called(store, conversation, parent=first.message_id, messages=(tool,))
    within = await read(store, conversation, Position(after=second.message_id))
    assert within.kept == {first.message_id: KEPT, second.message_id: KEPT}
    assert (await read(store, conversation, Position(after=tool.id))).kept == {first.message_id: KEPT}
    assert (await read(store, conversation, Position(after=second.message_id), new_turn=True)).kept == {}

    later = user_message("next", parent=second.message_id)
    third = await called(store, conversation, parent=second.message_id, messages=(later,))
    assert (await read(store, conversation)).kept == {third.message_id: KEPT}
    again = await read(store, conversation, Position(replace=third.message_id))
    assert (again.path[-1].id, again.kept) == (later.id, {})
    await answered(store, conversation, parent=third.message_id, messages=(result(third.message_id),))
    assert (await read(store, conversation)).kept == {third.message_id: KEPT}


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"origin":1,"items":[]}', '{"items":["{}"]}'])
async def test_kept_items_that_cannot_be_decoded_are_ignored(store, query, text):
    conversation = await created(store)
    await called(store, conversation)
    query("UPDATE message SET kept = ? WHERE kept IS NOT NULL", text)
    source = await read(store, conversation)
    assert (len(source.path), source.kept) == (2, {})


async def test_kept_items_that_no_row_can_hold_are_left_out(store):
    conversation = await created(store)
    reply = await called(store, conversation, Kept(origin="o", items=("\ud800",)))
    assert (await store.get_reply(ADA, reply.id)).message == reply.message
    assert (await read(store, conversation)).kept == {}


# --- usage


async def test_the_newest_counted_usage_of_each_model_is_read(store):
    conversation = await created(store)
    parent = ""
    for model, changes, expected in (
        ("fast", {}, {"fast": 100}),
        ("fast", {"prompt_tokens": 200}, {"fast": 200}),
        ("wise", {}, {"fast": 200, "wise": 100}),
        ("wise", {"prompt_tokens": 300, "estimated": True}, {"wise": 100}),
        ("old", {"prompt_bytes": 0}, {}),
    ):
        message = user_message(parent=parent)
        reply = await accepted(store, conversation, parent=parent, messages=(message,))
        await store.finalise(finalisation(reply, model=model, usage=msgspec.structs.replace(COUNTED, **changes)))
        parent = reply.message_id
        source = await read(store, conversation, Position(after=parent))
        assert {model: usage.prompt_tokens for model, usage in source.last_usage.items()} == expected


# --- where a path ends


@pytest.mark.parametrize(("max_bytes", "expected"), [(0, 9), (1, 1), (1_000, 1), (1_100, 2), (2_500, 3), (10**12, 9)])
async def test_a_path_ends_at_a_number_of_bytes(store, max_bytes, expected):
    made = chain(*("x" * 1_000 for _ in range(9)))
    conversation = await created(store, ADA, *made)
    assert len((await read(store, conversation, max_bytes=max_bytes, new_turn=True)).path) == expected
    assert len((await read(store, conversation, max_bytes=max_bytes, whole=True)).path) == 9


async def test_a_path_ends_at_eight_bytes_for_each_token_of_the_conversation_s_own_budget(store):
    made = chain(*("x" * 1_000 for _ in range(9)))
    conversation = await created(store, ADA, *made, context=ContextPolicy(max_tokens=300))
    assert len((await read(store, conversation, new_turn=True)).path) == 3
    assert len((await read(store, conversation, max_bytes=1_000, new_turn=True)).path) == 1


async def test_a_path_reaches_the_user_message_of_its_turn(store):
    conversation = await created(store, ADA, *chain("old", "older answer"))
    reply = await called(store, conversation)
    for _ in range(3):
        parent = (await store.get_conversation(ADA, conversation.id)).head_message_id
        reply = await called(store, conversation, parent=parent, messages=(result(parent),))
    source = await read(store, conversation, max_bytes=1)
    assert [message.role for message in source.path] == [Role.USER, *[Role.ASSISTANT, Role.TOOL] * 3, Role.ASSISTANT]
    assert source.path[-1].id == reply.message_id


async def test_partial_texts_of_failed_replies_do_not_count(store):
    made = list(chain("a", "x" * 1_000, "b"))
    made[1] = msgspec.structs.replace(made[1], failed=True, partial=True)
    conversation = await created(store, ADA, *made)
    assert texts(await read(store, conversation, max_bytes=500, new_turn=True)) == ["a", "b"]


# --- summaries


async def add(store, made: Summary, usage: Usage = COUNTED, *, usage_id: str = "") -> bool:
    return await store.add_summary(made, usage, usage_id=usage_id or unique("usage"), provider="scripted")


async def test_a_path_ends_at_the_newest_summary_on_it(store):
    made = chain(*map(str, range(9)))
    beside = user_message("beside", parent=made[5].id)
    conversation = await created(store, ADA, *made, beside, context=SUMMARIZE)
    for message in (made[1], made[3], beside):
        assert await add(store, summary(conversation, message.id, text=message.id))
    head = Position(after=made[8].id)
    source = await read(store, conversation, head, new_turn=True)
    assert texts(source) == ["3", "4", "5", "6", "7", "8"]
    assert source.summary == summary(conversation, made[3].id, text=made[3].id)
    above = await read(store, conversation, Position(after=made[2].id), new_turn=True)
    assert (texts(above), above.summary.message_id) == (["1", "2"], made[1].id)
    assert await add(store, summary(conversation, made[3].id, text="newer", create_time_us=NOW_US + 2 * SECOND_US))
    assert (await read(store, conversation, head, new_turn=True)).summary.text == "newer"
    whole = await read(store, conversation, head, new_turn=True, whole=True)
    assert (len(whole.path), whole.summary) == (9, None)


async def test_a_summary_is_used_from_the_turn_after_it(store):
    old, asked = chain("old", "answer"), user_message("asked")
    conversation = await created(store, ADA, *old, context=SUMMARIZE)
    reply = await called(store, conversation, messages=(msgspec.structs.replace(asked, parent_id=old[1].id),))
    await add(store, summary(conversation, old[1].id, create_time_us=NOW_US))
    same_turn = await read(store, conversation)
    assert (len(same_turn.path), same_turn.summary) == (4, None)
    await add(store, summary(conversation, old[1].id, create_time_us=NOW_US - 1))
    assert [each.id for each in (await read(store, conversation)).path] == [old[1].id, asked.id, reply.message_id]


async def test_a_conversation_that_drops_old_messages_uses_no_summary(store):
    made = chain("1", "2", "3")
    conversation = await created(store, ADA, *made)
    await add(store, summary(conversation, made[1].id))
    source = await read(store, conversation, new_turn=True)
    assert (len(source.path), source.summary) == (3, None)


async def test_a_limit_ends_a_path_before_its_summary(store):
    made = chain(*map(str, range(9)))
    policy = msgspec.structs.replace(SUMMARIZE, max_messages=3)
    conversation = await created(store, ADA, *made, context=policy)
    await add(store, summary(conversation, made[2].id))
    source = await read(store, conversation, new_turn=True)
    assert (texts(source), source.summary) == (["6", "7", "8"], None)


async def test_a_summary_is_stored_with_its_usage_once(store, query):
    made = chain("1", "2", "3")
    conversation = await created(store, ADA, *made)
    counted = Usage(prompt_tokens=9, cache_write_prompt_tokens=2, completion_tokens=2**40, cost_nano_usd=5)
    for _ in range(2):
        assert await add(store, summary(conversation, made[1].id, text="s\0"), counted, usage_id="u1")
    assert query("SELECT text, model, create_time_us FROM summary") == [("s\ufffd", "fast", NOW_US + SECOND_US)]
    columns = "reply_id, tenant, end_user, model, provider, state, kind, rolled"
    assert query(f"SELECT {columns} FROM usage") == [
        ("u1", "shop", "ada", "fast", "scripted", "COMPLETED", "summary", False)
    ]
    tokens = "prompt_tokens, cache_write_tokens, completion_tokens, cost_nano_usd"
    assert query(f"SELECT {tokens} FROM usage") == [(9, 2, 2**31 - 1, 5)]


async def test_a_summary_of_an_erased_conversation_is_not_stored(store, query):
    made = chain("1", "2", "3")
    conversation, other = await created(store, ADA, *made), await created(store)
    assert not await add(store, summary(other, made[1].id))
    await add(store, summary(conversation, made[1].id), usage_id="u1")
    await store.delete_conversation(ADA, conversation.id, "")
    assert not await add(store, summary(conversation, made[1].id))
    assert query("SELECT * FROM summary") == []
    assert query("SELECT reply_id FROM usage") == [("u1",)]
