"""Acceptance: every outcome, and that a refusal leaves no rows."""

import asyncio

import msgspec
import pytest
from parley_server.core.model import FinishReason, ImagePart, Message, Role, State, Usage
from parley_server.core.store_types import (
    Accepted,
    Busy,
    CancelTarget,
    ConversationGone,
    ConversationTaken,
    HeadMoved,
    ImageGone,
    MessageFilter,
    Position,
    Replayed,
    ReplyPlan,
    StoredImage,
    Unfinished,
)
from parley_server.errors import ConversationNotFound, ReplyNotFound

from tests.contract.store_values import (
    ADA,
    BEN,
    NOW_US,
    RIVAL,
    SECOND_US,
    SHOP,
    acceptance,
    accepted,
    answered,
    chain,
    created,
    finalisation,
    new_conversation,
    unique,
    user_message,
)

DAY_US = 24 * 3600 * SECOND_US


async def test_an_accepted_reply_is_stored_unchanged(store):
    conversation = await created(store)
    asked = acceptance(conversation, labels={"page": "7", "größe": "ß"})

    assert await store.accept(asked) == Accepted(reply=asked.reply)

    assert await store.get_reply(ADA, asked.reply.id) == asked.reply
    assert await store.unfinished_ids() == [asked.reply.id]
    after = await store.get_conversation(ADA, conversation.id)
    assert after == msgspec.structs.replace(
        conversation,
        head_message_id=asked.messages[-1].id,
        active_reply_id=asked.reply.id,
        update_time_us=NOW_US,
        etag="2",
    )
    page = await store.list_messages(ADA, MessageFilter(conversation_id=conversation.id), 10)
    assert page.messages == asked.messages


async def test_the_running_replies_of_a_tenant_are_counted(store):
    first = await accepted(store, await created(store))
    await accepted(store, await created(store, BEN), identity=BEN)
    await accepted(store, await created(store, RIVAL), identity=RIVAL)
    assert [await store.count_running(tenant) for tenant in ("shop", "rival", "unknown")] == [2, 1, 0]
    await store.finalise(finalisation(first))
    assert await store.count_running("shop") == 1


async def test_the_plan_of_a_reply_is_read_with_it(store):
    asked = acceptance(await created(store))
    asked = msgspec.structs.replace(
        asked,
        plan=ReplyPlan(ignored_settings=("seed", "top_p"), prompt_tokens=7),
        reply=msgspec.structs.replace(asked.reply, ignored_settings=("seed", "top_p")),
    )
    reply = asked.reply
    assert await store.accept(asked) == await store.accept(asked) == Accepted(reply=reply)
    assert await store.get_reply(ADA, reply.id) == reply
    assert await store.unfinished(1) == [Unfinished(reply=reply, prompt_tokens=7)]
    cancelled = await store.request_cancel(ADA, CancelTarget(reply_id=reply.id), FinishReason.CANCELLED, "", NOW_US)
    assert cancelled == reply
    ended = (await store.finalise(finalisation(reply))).reply
    assert ended.ignored_settings == reply.ignored_settings
    page = await store.list_messages(ADA, MessageFilter(conversation_id=reply.conversation_id), 1)
    assert [each.ignored_settings for each in page.replies] == [reply.ignored_settings]


@pytest.mark.parametrize(
    ("text", "prompt_tokens", "ignored"),
    [
        ('{"held":{"tokens":5},"ignored":["seed"],"prompt_tokens":7}', 7, ("seed",)),
        ('{"prompt_tokens":1000000000000}', 2**31 - 1, ()),
        ('{"prompt_tokens":"many","ignored":["seed"]}', 0, ()),
        ("no json", 0, ()),
    ],
)
async def test_any_plan_can_be_read(store, query, text, prompt_tokens, ignored):
    reply = await accepted(store, await created(store))
    query("UPDATE reply SET plan = ?", text)
    (left,) = await store.unfinished(1)
    assert (left.prompt_tokens, left.reply.ignored_settings) == (prompt_tokens, ignored)
    assert (await store.finalise(finalisation(reply))).won


async def test_several_messages_get_consecutive_positions(store):
    conversation = await created(store, ADA, *chain("one", "two"))
    messages = chain("three", "four", "five", parent=conversation.head_message_id)
    await accepted(store, conversation, messages=messages)
    page = await store.list_messages(ADA, MessageFilter(conversation_id=conversation.id, all_branches=True), 10)
    texts = [message.parts[0].text for message in page.messages]
    assert texts == ["five", "four", "three", "two", "one"]


async def test_a_new_conversation_is_created_with_its_reply(store):
    given = new_conversation(title="Fresh", labels={"a": "b"}).conversation
    asked = acceptance(given, new=True)
    assert await store.accept(asked) == Accepted(reply=asked.reply)
    stored = await store.get_conversation(ADA, given.id)
    assert (stored.title, stored.labels, stored.head_message_id) == ("Fresh", {"a": "b"}, asked.messages[0].id)
    assert stored.active_reply_id == asked.reply.id


async def test_without_messages_the_head_moves_to_the_answers_parent(store):
    first, second = chain("question", "answer")
    conversation = await created(store, ADA, first, second)
    reply = await accepted(store, conversation, messages=(), parent=first.id)
    assert reply.parent_message_id == first.id
    assert (await store.get_conversation(ADA, conversation.id)).head_message_id == first.id


async def test_a_repeated_acceptance_is_accepted_again(store):
    asked = acceptance(await created(store))
    await store.accept(asked)
    assert await store.accept(asked) == Accepted(reply=asked.reply)
    ended = await store.finalise(finalisation(asked.reply))
    assert await store.accept(asked) == Accepted(reply=ended.reply)
    assert ended.reply.message is not None


async def test_a_repeated_acceptance_does_not_find_its_own_conversation_taken(store):
    asked = acceptance(new_conversation().conversation, new=True)
    assert await store.accept(asked) == await store.accept(asked) == Accepted(reply=asked.reply)


async def test_a_known_key_takes_precedence_over_refusals(store):
    conversation = await created(store)
    reply = await accepted(store, conversation, request_id="again", payload_hash="first")
    retry = acceptance(conversation, request_id="again", payload_hash="second")
    assert await store.accept(retry) == Replayed(payload_hash="first", reply=reply)
    assert await store.find_request(ADA, "again", NOW_US) == Replayed(payload_hash="first", reply=reply)


async def test_a_replayed_reply_that_has_ended_has_its_message(store):
    conversation = await created(store)
    ended = await answered(store, conversation, request_id="again")
    replayed = await store.find_request(ADA, "again", NOW_US)
    assert replayed == Replayed(payload_hash="hash", reply=ended)
    assert replayed.reply.message.parts[0].text == "the answer"


async def test_a_key_belongs_to_tenant_and_end_user(store):
    for identity in (ADA, BEN, SHOP, RIVAL):
        conversation = await created(store, identity)
        await accepted(store, conversation, identity=identity, request_id="the same")
    assert await store.find_request(ADA, "another", NOW_US) is None


async def test_a_key_expires_after_a_day(store):
    conversation = await created(store)
    first = await answered(store, conversation, request_id="daily")
    assert (await store.find_request(ADA, "daily", NOW_US + DAY_US - 1)).reply == first
    assert await store.find_request(ADA, "daily", NOW_US + DAY_US) is None

    conversation = await store.get_conversation(ADA, conversation.id)
    again = await accepted(store, conversation, request_id="daily", now_us=NOW_US + DAY_US, payload_hash="new")
    found = await store.find_request(ADA, "daily", NOW_US + 2 * DAY_US - 1)
    assert found == Replayed(payload_hash="new", reply=again)


async def test_expired_keys_are_swept_a_bounded_number_at_a_time(store, query):
    for number in range(5):
        await store.request_cancel(
            ADA, CancelTarget(request_id=f"mark-{number}"), FinishReason.CANCELLED, "", NOW_US - 3600 * SECOND_US
        )
    await accepted(store, await created(store), request_id="kept")
    await store.close()
    assert query("SELECT key FROM idempotency_key") == [("kept",)]


async def test_a_key_outlives_its_conversation(store):
    conversation = await created(store)
    await answered(store, conversation, request_id="old")
    await store.delete_conversation(ADA, conversation.id, "")
    assert await store.find_request(ADA, "old", NOW_US) == Replayed(payload_hash="hash", reply=None)
    other = acceptance(await created(store), request_id="old")
    assert await store.accept(other) == Replayed(payload_hash="hash", reply=None)


async def test_busy_names_the_running_reply(store):
    conversation = await created(store)
    running = await accepted(store, conversation)
    current = await store.get_conversation(ADA, conversation.id)
    assert await store.accept(acceptance(current)) == Busy(reply_id=running.id)
    stale = acceptance(conversation)
    assert await store.accept(stale) == Busy(reply_id=running.id), "a busy conversation is reported before a moved head"


async def test_a_conversation_accepts_a_request_after_its_reply_has_ended(store):
    conversation = await created(store)
    await answered(store, conversation)
    await accepted(store, await store.get_conversation(ADA, conversation.id))


async def test_a_moved_head_is_refused_unless_a_position_was_named(store):
    conversation = await created(store)
    await answered(store, conversation)
    assert await store.accept(acceptance(conversation)) == HeadMoved()
    await accepted(store, conversation, parent="")


async def test_an_erased_or_foreign_conversation_is_refused_as_gone(store):
    conversation = await created(store)
    for identity in (BEN, RIVAL):
        assert await store.accept(acceptance(conversation, identity=identity)) == ConversationGone()
    await store.delete_conversation(ADA, conversation.id, "")
    assert await store.accept(acceptance(conversation)) == ConversationGone()


async def test_a_parent_from_an_erased_conversation_with_the_same_id_is_refused(store):
    old = await created(store, ADA, *chain("old"))
    await store.delete_conversation(ADA, old.id, "")
    await created(store, id=old.id)
    assert await store.accept(acceptance(old, parent=old.head_message_id)) == ConversationGone()


async def test_an_identity_without_end_user_may_write_in_a_users_conversation(store):
    reply = await accepted(store, await created(store), identity=SHOP)
    assert await store.get_reply(ADA, reply.id) == reply


async def test_conversation_ids_are_unique_per_tenant(store):
    taken = await created(store, BEN, id="chosen")
    mine = new_conversation(ADA, id=taken.id).conversation
    assert await store.accept(acceptance(mine, new=True)) == ConversationTaken()
    theirs = new_conversation(RIVAL, id=taken.id).conversation
    assert isinstance(await store.accept(acceptance(theirs, new=True, identity=RIVAL)), Accepted)


async def test_shown_images_must_belong_to_the_conversation(store):
    image = StoredImage(id=unique("image"), mime_type="image/png", data=b"\x00png")
    owner = await created(store, images=(image,))
    other = await created(store)
    assert await store.accept(acceptance(other, shown_images=(image.id,))) == ImageGone(image_id=image.id)
    mixed = acceptance(owner, shown_images=(image.id, "unknown"))
    assert await store.accept(mixed) == ImageGone(image_id="unknown")
    stale = msgspec.structs.replace(mixed, head="elsewhere")
    assert await store.accept(stale) == HeadMoved(), "a moved head is reported before a missing image"
    await accepted(store, owner, shown_images=(image.id,))
    fresh = acceptance(new_conversation().conversation, new=True, shown_images=(image.id,))
    assert await store.accept(fresh) == ImageGone(image_id=image.id)


async def test_images_are_stored_with_their_message(store):
    image = StoredImage(id=unique("image"), mime_type="image/png", data=bytes(range(256)))
    part = ImagePart(image_id=image.id, mime_type="image/png", size_bytes=256)
    message = Message(id=unique("message"), role=Role.USER, parts=(part,), create_time_us=NOW_US)
    conversation = await created(store)
    await accepted(store, conversation, messages=(message,), images=(image,))
    turn = await store.read_turn(ADA, conversation.id, Position(), has_input=True)
    assert (turn.path, turn.images) == ((message,), (image,))


@pytest.mark.parametrize("refusal", ["busy", "head", "gone", "taken", "image"])
async def test_a_refusal_leaves_no_rows(store, query, refusal):
    conversation = await created(store)
    if refusal == "busy":
        await accepted(store, conversation)
        asked = acceptance(conversation)
    elif refusal == "head":
        asked = acceptance(conversation, head="elsewhere")
    elif refusal == "gone":
        asked = acceptance(new_conversation().conversation)
    elif refusal == "taken":
        asked = acceptance(conversation, new=True)
    else:
        asked = acceptance(conversation, shown_images=("unknown",))
    before = _all_rows(query)
    assert not isinstance(await store.accept(asked), Accepted | Replayed)
    assert _all_rows(query) == before
    assert await store.find_request(ADA, asked.reply.request_id, NOW_US) is None
    with pytest.raises(ReplyNotFound):
        await store.get_reply(ADA, asked.reply.id)
    if refusal == "gone":
        with pytest.raises(ConversationNotFound):
            await store.get_conversation(ADA, asked.reply.conversation_id)


async def test_a_cancel_that_arrives_first_ends_the_acceptance_as_cancelled(store, query):
    conversation = await created(store)
    target = CancelTarget(request_id="stopped early")
    assert await store.request_cancel(ADA, target, FinishReason.CANCELLED, "changed my mind", NOW_US) is None
    assert await store.find_request(ADA, "stopped early", NOW_US) is None

    asked = acceptance(conversation, request_id="stopped early", now_us=NOW_US + 59 * SECOND_US)
    outcome = await store.accept(asked)

    cancelled = msgspec.structs.replace(
        asked.reply,
        state=State.CANCELLED,
        finish_reason=FinishReason.CANCELLED,
        cancel_reason="changed my mind",
        last_sequence=1,
        usage=Usage(),
        end_time_us=asked.now_us,
    )
    assert outcome == Accepted(reply=cancelled)
    assert await store.get_reply(ADA, asked.reply.id) == cancelled
    after = await store.get_conversation(ADA, conversation.id)
    assert (after.active_reply_id, after.head_message_id) == ("", asked.messages[0].id)
    assert query("SELECT state, completion_tokens FROM usage") == [("CANCELLED", 0)]
    late = asked.now_us + DAY_US - 1
    assert await store.find_request(ADA, "stopped early", late) == Replayed(payload_hash="hash", reply=cancelled)
    assert await store.accept(asked) == outcome
    await accepted(store, after)


async def test_a_cancel_mark_survives_a_refusal_and_expires_after_a_minute(store):
    conversation = await created(store)
    target = CancelTarget(request_id="marked")
    await store.request_cancel(ADA, target, FinishReason.CANCELLED, "first", NOW_US)
    await store.request_cancel(ADA, target, FinishReason.CANCELLED, "second", NOW_US + 50 * SECOND_US)
    assert await store.accept(acceptance(conversation, request_id="marked", head="elsewhere")) == HeadMoved()
    marked = await accepted(store, conversation, request_id="marked", now_us=NOW_US + 100 * SECOND_US)
    assert (marked.state, marked.cancel_reason) == (State.CANCELLED, "first")

    await store.request_cancel(ADA, CancelTarget(request_id="late"), FinishReason.CANCELLED, "stop", NOW_US)
    current = await store.get_conversation(ADA, conversation.id)
    late = await accepted(store, current, request_id="late", now_us=NOW_US + 60 * SECOND_US)
    assert late.state is State.PENDING


async def test_one_of_fifty_concurrent_acceptances_in_a_conversation_wins(store):
    conversation = await created(store)
    outcomes = await asyncio.gather(*(store.accept(acceptance(conversation)) for _ in range(50)))
    winners = [outcome.reply.id for outcome in outcomes if isinstance(outcome, Accepted)]
    assert len(winners) == 1
    assert outcomes.count(Busy(reply_id=winners[0])) == 49
    page = await store.list_messages(ADA, MessageFilter(conversation_id=conversation.id, all_branches=True), 100)
    assert len(page.messages) == 1


async def test_fifty_concurrent_acceptances_with_one_key_start_one_reply(store):
    conversations = [await created(store) for _ in range(50)]
    asked = [acceptance(each, request_id="equal") for each in conversations]
    outcomes = await asyncio.gather(*map(store.accept, asked))
    winners = [outcome.reply for outcome in outcomes if isinstance(outcome, Accepted)]
    assert len(winners) == 1
    assert outcomes.count(Replayed(payload_hash="hash", reply=winners[0])) == 49


async def test_refused_and_accepted_requests_share_a_commit(store):
    conversations = [await created(store) for _ in range(40)]
    asked = [acceptance(each, head="elsewhere" if number % 2 else None) for number, each in enumerate(conversations)]
    outcomes = await asyncio.gather(*map(store.accept, asked))
    for number, outcome in enumerate(outcomes):
        assert outcome == (HeadMoved() if number % 2 else Accepted(reply=asked[number].reply))
    assert len(await store.unfinished_ids()) == 20


async def test_any_text_is_read_back_unchanged(store):
    text = "naïve 🦜 \u0000 \u2028 '\" % _ \\ ﷽ " + "x" * 100_000
    conversation = await created(store)
    message = user_message(text)
    await accepted(store, conversation, messages=(message,))
    page = await store.list_messages(ADA, MessageFilter(conversation_id=conversation.id), 10)
    assert page.messages == (message,)


def _all_rows(query) -> dict[str, list[tuple]]:
    tables = ["conversation", "message", "reply", "image", "idempotency_key", "usage", "conversation_label"]
    return {table: query(f"SELECT * FROM {table}") for table in tables}
