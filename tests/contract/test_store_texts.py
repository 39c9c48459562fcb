"""Texts and numbers that no row can hold, or that two databases could sort differently."""

import asyncio

import msgspec
import pytest
from parley_server.core.counts import MOST_COST
from parley_server.core.events import TextDelta
from parley_server.core.model import FinishReason, Identity, ReplyError, State, Usage
from parley_server.core.store_types import (
    CancelTarget,
    ConversationFilter,
    ConversationGone,
    ConversationUpdate,
    ImageGone,
    MessageFilter,
    Position,
)
from parley_server.errors import (
    ConversationNotFound,
    ImageNotFound,
    MessageNotFound,
    Reason,
    ReplyNotFound,
)
from parley_server.store import open_store
from parley_server.store.migrate import migrate

from tests.contract.store_values import (
    ADA,
    NOW_US,
    acceptance,
    accepted,
    answered,
    chain,
    checkpoint,
    created,
    finalisation,
    new_conversation,
)

UNKNOWN = ["a\0b", "\0", "\ud800", "a\udfffb", "\\u0000", "'; --", "%", "x" * 100_000, ""]
IMPOSSIBLE = UNKNOWN[:4]
CANCEL_REQUEST = (FinishReason.CANCELLED, "stop", NOW_US)


@pytest.mark.parametrize("text", UNKNOWN)
async def test_ids_that_no_row_can_hold_are_not_found(store, text):
    mine = await created(store, ADA, *chain("one"))
    branch = MessageFilter(conversation_id=mine.id)
    wanted = {
        ConversationNotFound: [
            lambda: store.get_conversation(ADA, text),
            lambda: store.read_turn(ADA, text, Position(), has_input=True),
            lambda: store.update_conversation(ADA, ConversationUpdate(conversation_id=text), NOW_US),
            lambda: store.delete_conversation(ADA, text, ""),
            lambda: store.list_messages(ADA, MessageFilter(conversation_id=text), 5),
        ],
        ReplyNotFound: [lambda: store.get_reply(ADA, text)],
        ImageNotFound: [lambda: store.get_image(ADA, text)],
    }
    if text:  # an empty text means the head, or no value
        wanted[MessageNotFound] = [
            lambda: store.read_turn(ADA, mine.id, Position(after=text), has_input=True),
            lambda: store.read_turn(ADA, mine.id, Position(replace=text), has_input=True),
            lambda: store.list_messages(ADA, msgspec.structs.replace(branch, leaf=text), 5),
            lambda: store.list_messages(ADA, msgspec.structs.replace(branch, cursor=text), 5),
            lambda: store.update_conversation(
                ADA, ConversationUpdate(conversation_id=mine.id, head_message_id=text), NOW_US
            ),
        ]
        wanted[ReplyNotFound].append(lambda: store.request_cancel(ADA, CancelTarget(reply_id=text), *CANCEL_REQUEST))
        wanted[ConversationNotFound].append(
            lambda: store.request_cancel(ADA, CancelTarget(conversation_id=text), *CANCEL_REQUEST)
        )
    for error, operations in wanted.items():
        for operation in operations:
            with pytest.raises(error):
                await operation()
    assert await store.find_request(ADA, text, NOW_US) is None
    assert await store.unfinished(5, text or "none") == []
    assert await store.standings([text]) == []
    assert await store.get_conversation(ADA, mine.id) == mine


@pytest.mark.parametrize("text", IMPOSSIBLE)
async def test_an_identity_that_no_row_can_hold_owns_nothing(store, text):
    mine = await created(store)
    for identity in (Identity(tenant="shop", end_user=text), Identity(tenant=text), Identity(tenant=text, end_user="")):
        with pytest.raises(ConversationNotFound):
            await store.get_conversation(identity, mine.id)
        page = await store.list_conversations(identity, ConversationFilter(), 5)
        assert page.conversations == ()


@pytest.mark.parametrize("text", IMPOSSIBLE)
async def test_an_acceptance_with_ids_that_no_row_can_hold_is_refused(store, text):
    mine = await created(store)
    assert await store.accept(acceptance(mine, shown_images=(text,))) == ImageGone(image_id=text)
    gone = acceptance(msgspec.structs.replace(mine, head_message_id=""))
    elsewhere = msgspec.structs.replace(gone, reply=msgspec.structs.replace(gone.reply, conversation_id="elsewhere"))
    assert await store.accept(elsewhere) == ConversationGone()


@pytest.mark.parametrize("text", IMPOSSIBLE)
async def test_a_filter_with_values_that_no_row_can_hold_finds_nothing(store, text):
    await created(store, title="a b", labels={"a": "b"})
    for which in (
        ConversationFilter(words=(text,)),
        ConversationFilter(labels={text: "b"}),
        ConversationFilter(labels={"a": text}),
        ConversationFilter(before=(NOW_US + 1, text)),
        ConversationFilter(before=(2**70, "x")),
        ConversationFilter(before=(-(2**70), "x")),
    ):
        page = await store.list_conversations(ADA, which, 5)
        assert (page.conversations, page.more) == ((), False)


@pytest.mark.parametrize("text", ["st\0op", "st\ud800op"])
async def test_characters_that_no_row_can_hold_are_replaced(store, text):
    """A finalisation that the database refuses would be retried forever."""
    reply = await accepted(store, await created(store))
    outcome = await store.finalise(finalisation(reply, provider_reason=text))
    assert (outcome.won, outcome.reply.provider_reason) == (True, "st\ufffdop")
    assert await store.get_reply(ADA, reply.id) == outcome.reply


async def test_counts_and_costs_above_the_most_that_is_stored_are_clamped(store, query):
    counted = Usage(prompt_tokens=2**70, cached_prompt_tokens=-1, completion_tokens=2**31, cost_nano_usd=2**64)
    reply = await accepted(store, await created(store))
    outcome = await store.finalise(finalisation(reply, usage=counted))
    most = Usage(prompt_tokens=2**31 - 1, completion_tokens=2**31 - 1, cost_nano_usd=MOST_COST)
    assert (outcome.won, outcome.reply.usage) == (True, most)
    assert await store.get_reply(ADA, reply.id) == outcome.reply
    columns = "prompt_tokens, cached_prompt_tokens, completion_tokens, reasoning_tokens, cost_nano_usd"
    assert query(f"SELECT {columns} FROM usage") == [(2**31 - 1, 0, 2**31 - 1, 0, MOST_COST)]


@pytest.mark.parametrize("text", ["no\0t", "no\ud800t"])
async def test_characters_of_an_error_that_no_row_can_hold_are_replaced(store, text):
    reply = await accepted(store, await created(store))
    error = ReplyError(reason=Reason.PROVIDER_REJECTED, message=text, metadata={text: text})
    outcome = await store.finalise(finalisation(reply, "", state=State.FAILED, finish_reason=None, error=error))
    assert outcome.reply.error.message == "no\ufffdt"
    assert outcome.reply.error.metadata == {"no\ufffdt": "no\ufffdt"}
    assert await store.get_reply(ADA, reply.id) == outcome.reply


async def test_out_of_range_counts_of_an_older_release_are_clamped(store, query):
    reply = await answered(store, await created(store))
    query("UPDATE reply SET usage = ?", '{"prompt_tokens":18446744073709551616,"completion_tokens":-1}')
    read = await store.get_reply(ADA, reply.id)
    assert read.usage == Usage(prompt_tokens=2**31 - 1)


@pytest.mark.parametrize("entries", ["{oops", '[{"type":"song"}]', '[{"type":"usage","usage":{"prompt_tokens":9.5}}]'])
async def test_text_before_an_unreadable_checkpoint_is_kept(store, query, entries, caplog):
    reply = await accepted(store, await created(store))
    for start in (1, 2, 3):
        await store.append_checkpoints([checkpoint(reply, f"{start} ", start=start)])
    query("UPDATE checkpoint SET entries = ? WHERE from_sequence = 2", entries)
    (left,) = await store.unfinished(5)
    assert left.entries == (TextDelta("1 "),)
    assert left.durable_sequence == 3
    assert "checkpoint_decode_failed" in caplog.messages


async def test_one_statement_writes_a_mebibyte_of_checkpoints(store):
    replies = [await accepted(store, await created(store)) for _ in range(4)]
    text = "\0\\\"'🦜 ﷽" * 30_000
    await store.append_checkpoints([checkpoint(each, text) for each in replies])
    assert {each.entries[0].text for each in await store.unfinished(10)} == {text}


async def test_ids_are_ordered_by_their_bytes(store):
    """A page token must mean the same on each database, independent of the server's locale."""
    ids = ["B", "a", "_", "-", "Z9", "z", "a-b", "ab", "a_c", "A"]
    for conversation_id in ids:
        await created(store, id=conversation_id, title=conversation_id)
    found: list[str] = []
    before = None
    while True:
        page = await store.list_conversations(ADA, ConversationFilter(before=before), 3)
        found += [each.id for each in page.conversations]
        if not page.more:
            break
        before = (page.conversations[-1].update_time_us, page.conversations[-1].id)
    assert found == sorted(ids, reverse=True)


async def test_a_servers_default_collation_does_not_change_the_order(postgres):
    """An ICU collation sorts "a" before "B", and ignores "-"."""
    ((version,),) = await postgres.query("SELECT current_setting('server_version_num')::int")
    if version < 150_000:
        pytest.skip("a database cannot have such rules before PostgreSQL 15")
    await postgres.query("CREATE DATABASE sorted LOCALE_PROVIDER icu ICU_LOCALE 'en-US' TEMPLATE template0")
    url = postgres.url("sorted")
    await asyncio.to_thread(migrate, url)
    store = open_store(url)
    await store.start()
    (is_other,) = await postgres.query("SELECT 'a' < 'B'", database="sorted")
    assert is_other == (True,)
    await test_ids_are_ordered_by_their_bytes(store)
    for title in ("Straße", "50% off"):
        await store.create_conversation(new_conversation(title=title))
    page = await store.list_conversations(ADA, ConversationFilter(words=("STRASSE",)), 5)
    assert [each.title for each in page.conversations] == ["Straße"]
    await answered(store, await created(store))
    await store.close()
