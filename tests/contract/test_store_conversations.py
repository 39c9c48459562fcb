"""Conversations, their pages, and the branches of their messages."""

import asyncio
import time

import msgspec
import pytest
from parley_server.core.model import (
    ContextPolicy,
    Conversation,
    ImagePart,
    Message,
    Overflow,
    ReplyError,
    Role,
    State,
    TextPart,
)
from parley_server.core.store_types import (
    Busy,
    ConversationFilter,
    ConversationReplayed,
    ConversationTaken,
    ConversationUpdate,
    MessageFilter,
    Position,
    StoredImage,
)
from parley_server.errors import (
    ConversationNotFound,
    EtagMismatch,
    ImageNotFound,
    MessageNotFound,
    ProviderContextTooLarge,
    ProviderRejected,
    ReplyNotFound,
)

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
    checkpoint,
    created,
    finalisation,
    new_conversation,
    unique,
    user_message,
)

DAY_US = 24 * 3600 * SECOND_US


async def titles(store, identity=ADA, limit=50, **which) -> list[str]:
    page = await store.list_conversations(identity, ConversationFilter(**which), limit)
    return [conversation.title for conversation in page.conversations]


async def texts(store, conversation, identity=ADA, limit=50, **which) -> list[str]:
    page = await store.list_messages(identity, MessageFilter(conversation_id=conversation.id, **which), limit)
    return [message.parts[0].text for message in page.messages]


async def all_pages(store, conversation, limit, **which) -> list[str]:
    found, cursor = [], ""
    while True:
        which_page = MessageFilter(conversation_id=conversation.id, cursor=cursor, **which)
        page = await store.list_messages(ADA, which_page, limit)
        found += [message.parts[0].text for message in page.messages]
        if not page.next_cursor:
            return found
        cursor = page.next_cursor


# --- create, read, change


async def test_a_conversation_is_read_back_unchanged(store):
    messages = chain("hi", "hello")
    new = new_conversation(
        ADA,
        *messages,
        title="Größe 🦜",
        labels={"k": "v", "ü": ""},
        system=("be kind", "be brief"),
        post_system="now",
        model="fast",
        context=ContextPolicy(max_messages=3, max_tokens=4, overflow=Overflow.SUMMARIZE, reminder="r"),
    )
    stored = await store.create_conversation(new)
    assert stored == msgspec.structs.replace(new.conversation, head_message_id=messages[-1].id, etag="1")
    assert await store.get_conversation(ADA, stored.id) == stored
    assert await texts(store, stored) == ["hello", "hi"]


async def test_an_overflow_policy_of_a_newer_release_counts_as_the_default(store, query):
    conversation = await created(store, context=ContextPolicy(max_tokens=5, overflow=Overflow.SUMMARIZE))
    query("""UPDATE conversation SET context = '{"max_tokens":5,"overflow":"ASK_THE_USER","depth":2}'""")
    assert (await store.get_conversation(ADA, conversation.id)).context == ContextPolicy(max_tokens=5)


async def test_a_creation_with_a_known_key_replays(store):
    new = new_conversation(title="one", request_id="key", payload_hash="h")
    stored = await store.create_conversation(new)
    again = new_conversation(title="two", request_id="key", payload_hash="other")
    assert await store.create_conversation(again) == ConversationReplayed(payload_hash="h", conversation=stored)
    assert await titles(store) == ["one"]
    expired = new_conversation(title="two", request_id="key", payload_hash="other", now_us=NOW_US + DAY_US)
    assert isinstance(await store.create_conversation(expired), Conversation)
    await store.delete_conversation(ADA, expired.conversation.id, "")
    replayed = await store.create_conversation(msgspec.structs.replace(again, now_us=NOW_US + DAY_US))
    assert replayed == ConversationReplayed(payload_hash="other", conversation=None)


async def test_keys_of_replies_and_conversations_are_separate(store):
    await answered(store, await created(store), request_id="shared")
    assert isinstance(await store.create_conversation(new_conversation(request_id="shared")), Conversation)
    assert await store.find_request(ADA, "shared", NOW_US) is not None


async def test_a_creation_with_a_taken_id_leaves_no_key(store):
    taken = await created(store, BEN)
    refused = new_conversation(ADA, id=taken.id, request_id="key", now_us=NOW_US + 1)
    assert await store.create_conversation(refused) == ConversationTaken()
    assert isinstance(await store.create_conversation(new_conversation(request_id="key")), Conversation)
    assert await store.create_conversation(new_conversation(BEN, id=taken.id, now_us=NOW_US + 1)) == ConversationTaken()


async def test_a_repeated_creation_without_a_key_returns_the_first(store):
    new = new_conversation()
    assert await store.create_conversation(new) == await store.create_conversation(new)


async def test_an_update_changes_only_given_fields(store):
    first, second = chain("one", "two")
    before = await created(store, ADA, first, second, title="old", labels={"a": "1", "b": "2"}, model="fast")
    update = ConversationUpdate(
        conversation_id=before.id,
        etag=before.etag,
        title="new",
        system=("s",),
        post_system="p",
        max_messages=4,
        reminder="r",
        labels={"b": "3"},
        head_message_id=first.id,
    )
    after = await store.update_conversation(ADA, update, NOW_US + 5)
    assert after == msgspec.structs.replace(
        before,
        title="new",
        system=("s",),
        post_system="p",
        context=ContextPolicy(max_messages=4, reminder="r"),
        labels={"b": "3"},
        head_message_id=first.id,
        update_time_us=NOW_US + 5,
        etag="2",
    )
    assert await store.get_conversation(ADA, before.id) == after
    assert await titles(store, labels={"b": "3"}) == ["new"]
    assert await titles(store, labels={"a": "1"}) == []
    assert await titles(store, words=("old",)) == []
    cleared = ConversationUpdate(
        conversation_id=before.id,
        head_message_id="",
        model="",
        labels={},
        max_tokens=9,
        overflow=Overflow.SUMMARIZE,
        reminder="",
        reminder_interval=5,
    )
    emptied = await store.update_conversation(ADA, cleared, NOW_US + 6)
    assert emptied.context == ContextPolicy(
        max_messages=4, max_tokens=9, overflow=Overflow.SUMMARIZE, reminder_interval=5
    )
    assert (emptied.head_message_id, emptied.model, emptied.labels, emptied.title) == ("", "", {}, "new")


async def test_an_update_of_nothing_changes_nothing(store):
    before = await created(store)
    assert await store.update_conversation(ADA, ConversationUpdate(conversation_id=before.id), NOW_US + 1) == before


async def test_an_update_with_an_old_etag_is_refused(store):
    before = await created(store)
    await answered(store, before)
    update = ConversationUpdate(conversation_id=before.id, etag=before.etag, title="lost")
    with pytest.raises(EtagMismatch):
        await store.update_conversation(ADA, update, NOW_US)
    with pytest.raises(EtagMismatch):
        await store.delete_conversation(ADA, before.id, before.etag)
    assert (await store.get_conversation(ADA, before.id)).title == ""


async def test_concurrent_updates_are_not_lost(store):
    conversation = await created(store, title="0")

    async def add_one() -> None:
        while True:
            read = await store.get_conversation(ADA, conversation.id)
            update = ConversationUpdate(conversation_id=conversation.id, etag=read.etag, title=str(int(read.title) + 1))
            try:
                await store.update_conversation(ADA, update, NOW_US)
            except EtagMismatch:
                continue
            return

    await asyncio.gather(*(add_one() for _ in range(20)))
    assert (await store.get_conversation(ADA, conversation.id)).title == "20"


async def test_a_head_must_belong_to_the_conversation(store):
    other = await created(store, ADA, *chain("elsewhere"))
    mine = await created(store)
    for head in (other.head_message_id, "unknown"):
        with pytest.raises(MessageNotFound):
            await store.update_conversation(
                ADA, ConversationUpdate(conversation_id=mine.id, title="x", head_message_id=head), NOW_US
            )
    assert await store.get_conversation(ADA, mine.id) == mine


# --- erase


async def test_erasing_a_conversation_keeps_its_usage_and_keys(store, query):
    image = StoredImage(id=unique("image"), mime_type="image/png", data=b"x")
    kept = await created(store, ADA, *chain("kept"), labels={"a": "b"})
    conversation = await created(store, ADA, *chain("gone"), labels={"a": "b"}, images=(image,))
    first = await answered(store, conversation)
    second = await answered(store, await store.get_conversation(ADA, conversation.id))

    erased = await store.delete_conversation(ADA, conversation.id, "")

    assert sorted(erased) == sorted([first.id, second.id])
    for table, left in [("conversation", 1), ("message", 1), ("conversation_label", 1), ("image", 0), ("reply", 0)]:
        assert query(f"SELECT count(*) FROM {table}") == [(left,)], table
    assert query("SELECT count(*) FROM usage") == query("SELECT count(*) FROM idempotency_key") == [(2,)]
    with pytest.raises(ConversationNotFound):
        await store.get_conversation(ADA, conversation.id)
    with pytest.raises(ConversationNotFound):
        await store.delete_conversation(ADA, conversation.id, "")
    with pytest.raises(ReplyNotFound):
        await store.get_reply(ADA, first.id)
    assert await store.get_conversation(ADA, kept.id) == kept
    assert await titles(store, labels={"a": "b"}) == [""]


async def test_a_conversation_with_a_running_reply_is_not_erased(store, query):
    conversation = await created(store)
    running = await accepted(store, conversation)
    await store.append_checkpoints([checkpoint(running, "text")])
    assert await store.delete_conversation(ADA, conversation.id, "") == Busy(reply_id=running.id)
    assert query("SELECT count(*) FROM checkpoint") == [(1,)]
    assert (await store.get_conversation(ADA, conversation.id)).active_reply_id == running.id


async def test_an_erased_id_can_be_used_again(store):
    conversation = await created(store, ADA, *chain("old"), title="old")
    await store.delete_conversation(ADA, conversation.id, conversation.etag)
    again = await created(store, BEN, id=conversation.id, title="new")
    assert await texts(store, again, identity=BEN) == []


# --- pages of conversations


async def test_conversations_are_listed_by_their_newest_activity(store):
    made = [await created(store, title=str(number), now_us=NOW_US + number, system=("s",)) for number in range(5)]
    assert await titles(store) == ["4", "3", "2", "1", "0"]
    await answered(store, made[1], now_us=NOW_US + 10)
    page = await store.list_conversations(ADA, ConversationFilter(), 2)
    assert [conversation.title for conversation in page.conversations] == ["1", "4"]
    assert page.more
    assert page.conversations[0] == msgspec.structs.replace(await store.get_conversation(ADA, made[1].id), system=())


async def test_listed_conversations_name_their_running_reply(store):
    conversation = await created(store)
    running = await accepted(store, conversation)
    page = await store.list_conversations(ADA, ConversationFilter(), 2)
    assert page.conversations[0].active_reply_id == running.id


async def test_pages_are_complete_while_conversations_are_added(store):
    for number in range(25):
        await created(store, title=str(number), now_us=NOW_US + number // 3)
    found, before = [], None
    while True:
        page = await store.list_conversations(ADA, ConversationFilter(before=before), 4)
        found += [conversation.title for conversation in page.conversations]
        if not page.more:
            break
        last = page.conversations[-1]
        before = (last.update_time_us, last.id)
        await created(store, title="added", now_us=NOW_US + 100)
    assert sorted(found, key=int) == [str(number) for number in range(25)]


async def test_a_title_is_found_by_all_its_words_in_any_case(store):
    for title in ("Straße nach Köln", "strasse", "İstanbul", "50% off_now", "50 percent", "back\\slash", "a/b"):
        await created(store, title=title)
    assert await titles(store, words=("STRASSE", "köln")) == ["Straße nach Köln"]
    assert sorted(await titles(store, words=("straße",))) == ["Straße nach Köln", "strasse"]
    assert await titles(store, words=("Ko\u0308ln",)) == ["Straße nach Köln"]
    assert await titles(store, words=("50%",)) == ["50% off_now"]
    assert await titles(store, words=("f_n",)) == ["50% off_now"]
    assert await titles(store, words=("_",)) == ["50% off_now"]
    assert await titles(store, words=("k\\s",)) == ["back\\slash"]
    assert await titles(store, words=("a/b",)) == ["a/b"]
    assert await titles(store, words=("/%",)) == []
    assert await titles(store, words=("x" * 60_000,)) == []


async def test_labels_must_all_match_exactly(store):
    await created(store, title="both", labels={"a": "1", "b": "2"})
    await created(store, title="one", labels={"a": "1"})
    await created(store, title="other", labels={"a": "1%"})
    assert await titles(store, labels={"a": "1", "b": "2"}) == ["both"]
    assert sorted(await titles(store, labels={"a": "1"})) == ["both", "one"]
    assert await titles(store, labels={"a": "1"}, words=("on",)) == ["one"]


async def test_a_page_of_conversations_is_limited_to_a_mebibyte(store):
    for number in range(4):
        await created(store, title="t" * 400_000, now_us=NOW_US + number)
    await created(store, title="u" * 3_000_000, now_us=NOW_US + 10)
    first = await store.list_conversations(ADA, ConversationFilter(), 50)
    assert ([len(each.title) for each in first.conversations], first.more) == ([3_000_000], True)
    before = (first.conversations[0].update_time_us, first.conversations[0].id)
    second = await store.list_conversations(ADA, ConversationFilter(before=before), 50)
    assert ([len(each.title) for each in second.conversations], second.more) == ([400_000] * 2, True)


# --- pages of messages


async def test_messages_are_listed_from_the_leaf_up(store):
    one, two, three = chain("1", "2", "3")
    conversation = await created(store, ADA, one, two, three)
    fork = user_message("fork", parent=one.id)
    await accepted(store, conversation, messages=(fork,), parent=one.id)
    assert await texts(store, conversation) == ["fork", "1"]
    assert await texts(store, conversation, leaf=three.id) == ["3", "2", "1"]
    assert await texts(store, conversation, leaf=two.id) == ["2", "1"]
    assert await texts(store, conversation, all_branches=True) == ["fork", "3", "2", "1"]
    assert await texts(store, conversation, all_branches=True, leaf="whatever") == ["fork", "3", "2", "1"]


async def test_an_empty_conversation_lists_no_messages(store):
    conversation = await created(store)
    for all_branches in (False, True):
        which = MessageFilter(conversation_id=conversation.id, all_branches=all_branches)
        page = await store.list_messages(ADA, which, 10)
        assert (page.messages, page.replies, page.next_cursor) == ((), (), "")


async def test_a_leaf_or_cursor_must_belong_to_the_conversation(store):
    other = await created(store, ADA, *chain("elsewhere"))
    mine = await created(store, ADA, *chain("here"))
    for which in ({"leaf": other.head_message_id}, {"leaf": "unknown"}, {"cursor": other.head_message_id}):
        with pytest.raises(MessageNotFound):
            await texts(store, mine, **which)
    for cursor in ("x", "-1", "9" * 30, "²", "\N{ARABIC-INDIC DIGIT THREE}"):
        with pytest.raises(MessageNotFound):
            await texts(store, mine, all_branches=True, cursor=cursor)


@pytest.mark.parametrize("limit", [1, 3, 10, 11, 50])
async def test_every_message_is_on_exactly_one_page(store, limit):
    conversation = await created(store, ADA, *chain(*map(str, range(11))))
    expected = [str(number) for number in reversed(range(11))]
    assert await all_pages(store, conversation, limit) == expected
    assert await all_pages(store, conversation, limit, all_branches=True) == expected


@pytest.mark.parametrize("all_branches", [False, True])
async def test_pages_are_complete_while_messages_are_added(store, all_branches):
    conversation = await created(store, ADA, *chain(*map(str, range(10))))
    found, cursor = [], ""
    while True:
        which = MessageFilter(conversation_id=conversation.id, cursor=cursor, all_branches=all_branches)
        page = await store.list_messages(ADA, which, 3)
        found += [message.parts[0].text for message in page.messages]
        if not (cursor := page.next_cursor):
            break
        await answered(store, await store.get_conversation(ADA, conversation.id))
    assert found == [str(number) for number in reversed(range(10))]


@pytest.mark.parametrize("all_branches", [False, True])
async def test_a_page_of_messages_is_limited_to_a_mebibyte(store, all_branches):
    big = ["a" * 2_000_000, "b" * 500_000, "ü" * 200_000, "d" * 500_000]
    conversation = await created(store, ADA, *chain(*big))
    sizes, cursor = [], ""
    while True:
        which = MessageFilter(conversation_id=conversation.id, cursor=cursor, all_branches=all_branches)
        page = await store.list_messages(ADA, which, 50)
        sizes.append([message.parts[0].text[0] for message in page.messages])
        if not (cursor := page.next_cursor):
            break
    assert sizes == [["d", "ü"], ["b"], ["a"]]


# --- turns


async def test_a_turn_follows_the_position(store):
    one, two, three = chain("1", "2", "3")
    conversation = await created(store, ADA, one, two, three, system=("s",))

    async def turn(position=None, has_input=True):
        found = await store.read_turn(ADA, conversation.id, position or Position(), has_input=has_input)
        assert found.conversation == conversation
        return found.parent_id, [message.parts[0].text for message in found.path]

    assert await turn() == (three.id, ["1", "2", "3"])
    assert await turn(Position(after=two.id)) == (two.id, ["1", "2"])
    assert await turn(Position(replace=three.id)) == (two.id, ["1", "2"])
    assert await turn(Position(replace=three.id), has_input=False) == (three.id, ["1", "2", "3"])
    assert await turn(Position(replace=two.id)) == (one.id, ["1"])
    assert await turn(Position(replace=two.id), has_input=False) == (one.id, ["1"])
    assert await turn(Position(replace=one.id)) == ("", [])
    for position in (Position(after="unknown"), Position(replace="unknown")):
        with pytest.raises(MessageNotFound):
            await turn(position)


async def test_any_replys_message_can_be_replaced(store):
    conversation = await created(store)
    running = await accepted(store, conversation)
    for has_input in (True, False):
        turn = await store.read_turn(ADA, conversation.id, Position(replace=running.message_id), has_input=has_input)
        assert turn.parent_id == running.parent_message_id
        assert turn.conversation.active_reply_id == running.id
    other = await created(store)
    with pytest.raises(MessageNotFound):
        await store.read_turn(ADA, other.id, Position(replace=running.message_id), has_input=True)
    with pytest.raises(MessageNotFound):
        await store.read_turn(ADA, other.id, Position(after=running.parent_message_id), has_input=True)


async def test_a_tool_message_without_input_gets_an_answer_below_it(store):
    tool = Message(id=unique("message"), role=Role.TOOL, parts=(TextPart(text="t"),), create_time_us=NOW_US)
    conversation = await created(store, ADA, tool)
    turn = await store.read_turn(ADA, conversation.id, Position(replace=tool.id), has_input=False)
    assert (turn.parent_id, turn.path) == (tool.id, (tool,))


async def test_a_turn_has_the_newest_messages_that_did_not_fail(store):
    made = list(chain(*map(str, range(9))))
    made[6] = msgspec.structs.replace(made[6], failed=True, partial=True)
    made[7] = msgspec.structs.replace(made[7], partial=True)
    conversation = await created(store, ADA, *made, context=ContextPolicy(max_messages=4))
    turn = await store.read_turn(ADA, conversation.id, Position(), has_input=True)
    assert turn.path == (made[4], made[5], made[7], made[8])


def failed(kind):
    error = ReplyError.of(kind("no"))
    return {"state": State.FAILED, "finish_reason": None, "provider_reason": "", "error": error}


async def test_a_turn_names_input_that_was_refused_as_too_large(store):
    conversation = await created(store)
    answer = await answered(store, conversation)
    reply = await accepted(store, conversation, parent=answer.message_id)
    await store.finalise(finalisation(reply, "", **failed(ProviderContextTooLarge)))
    (huge,) = reply.input_message_ids
    turn = await store.read_turn(ADA, conversation.id, Position(), has_input=True)
    assert (turn.path[-1].id, turn.refused) == (huge, {huge: huge})
    # another attempt without input does not add input
    again = await store.read_turn(ADA, conversation.id, Position(replace=reply.message_id), has_input=False)
    assert (again.path[-1].id, again.refused) == (huge, {})
    # replacing it, and after another message that failed for another reason
    instead = await store.read_turn(ADA, conversation.id, Position(replace=huge), has_input=True)
    assert instead.refused == {}
    other = await accepted(store, conversation, parent=huge)
    await store.finalise(finalisation(other, "", **failed(ProviderRejected)))
    later = await store.read_turn(ADA, conversation.id, Position(), has_input=True)
    assert later.refused == {huge: huge}


async def test_a_failed_partial_text_that_is_continued_becomes_part_of_turns(store):
    conversation = await created(store)
    reply = await accepted(store, conversation)
    partial = Message(role=Role.ASSISTANT, parts=(TextPart(text="half"),), partial=True, failed=True)
    await store.finalise(finalisation(reply, message=partial, **failed(ProviderRejected)))
    on_path = await store.read_turn(ADA, conversation.id, Position(), has_input=True)
    assert [message.id for message in on_path.path] == list(reply.input_message_ids)

    named = await store.read_turn(ADA, conversation.id, Position(after=reply.message_id), has_input=True)
    assert [message.id for message in named.path] == [*reply.input_message_ids, reply.message_id]
    assert not named.path[-1].failed

    going_on = acceptance(conversation, parent=reply.message_id)
    await store.accept(msgspec.structs.replace(going_on, continued=reply.message_id))
    later = await store.read_turn(ADA, conversation.id, Position(), has_input=True)
    assert [message.id for message in later.path][:2] == [*reply.input_message_ids, reply.message_id]
    assert (later.path[1].failed, later.path[1].partial) == (False, True)


async def test_a_whole_turn_ignores_the_context_policy(store):
    made = chain(*map(str, range(9)))
    conversation = await created(store, ADA, *made, context=ContextPolicy(max_messages=2))
    turn = await store.read_turn(ADA, conversation.id, Position(), has_input=True, whole=True)
    assert turn.path == made


async def test_a_turn_has_only_the_images_of_its_path(store):
    images = tuple(StoredImage(id=unique("image"), mime_type="image/png", data=bytes([n])) for n in range(3))
    parts = [ImagePart(image_id=image.id, mime_type="image/png", size_bytes=1) for image in images]
    one = Message(id=unique("m"), role=Role.USER, parts=(parts[0], parts[1], parts[0]), create_time_us=1)
    two = Message(id=unique("m"), role=Role.USER, parts=(parts[2],), parent_id=one.id, create_time_us=1)
    conversation = await created(store, ADA, one, two, images=images)
    turn = await store.read_turn(ADA, conversation.id, Position(after=one.id), has_input=True)
    assert turn.images == images[:2]
    assert await store.get_image(ADA, images[2].id) == ImagePart(
        image_id=images[2].id, mime_type="image/png", data=b"\x02", size_bytes=1
    )


async def test_reading_a_turn_does_not_slow_down_with_the_conversation(store):
    long = await created(store, ADA, *chain(*map(str, range(10_000))), context=ContextPolicy(max_messages=10))
    short = await created(store, ADA, *chain(*map(str, range(10))), context=ContextPolicy(max_messages=10))

    async def fastest(work) -> float:
        times = []
        for _ in range(20):
            began = time.perf_counter()
            await work()
            times.append(time.perf_counter() - began)
        return min(times)

    async def turn(conversation) -> None:
        found = await store.read_turn(ADA, conversation.id, Position(), has_input=True)
        assert len(found.path) == 10

    assert await fastest(lambda: turn(long)) < 5 * await fastest(lambda: turn(short))
    page = MessageFilter(conversation_id=long.id)
    assert await fastest(lambda: store.list_messages(ADA, page, 10)) < 0.02
    assert (await texts(store, long, limit=3)) == ["9999", "9998", "9997"]
    await store.update_conversation(ADA, ConversationUpdate(conversation_id=long.id, max_messages=0), NOW_US)
    assert len((await store.read_turn(ADA, long.id, Position(), has_input=True)).path) == 10_000


# --- whose it is


@pytest.mark.parametrize(
    ("identity", "sees"),
    [(ADA, True), (SHOP, True), (BEN, False), (RIVAL, False)],
    ids=["own", "tenant", "user", "rival"],
)
async def test_rows_of_other_owners_are_not_found(store, identity, sees):
    image = StoredImage(id=unique("image"), mime_type="image/png", data=b"x")
    conversation = await created(store, ADA, *chain("mine"), title="mine", images=(image,))
    reply = await answered(store, conversation)
    update = ConversationUpdate(conversation_id=conversation.id, title="theirs")
    calls = {
        ConversationNotFound: [
            lambda: store.get_conversation(identity, conversation.id),
            lambda: store.list_messages(identity, MessageFilter(conversation_id=conversation.id), 5),
            lambda: store.read_turn(identity, conversation.id, Position(), has_input=True),
            lambda: store.update_conversation(identity, update, NOW_US),
        ],
        ReplyNotFound: [lambda: store.get_reply(identity, reply.id)],
        ImageNotFound: [lambda: store.get_image(identity, image.id)],
    }
    for error, operations in calls.items():
        for operation in operations:
            if sees:
                await operation()
            else:
                with pytest.raises(error) as refused:
                    await operation()
                assert str(refused.value) == str(error())
    assert await titles(store, identity) == (["theirs"] if sees else [])
    if sees:
        await store.delete_conversation(identity, conversation.id, "")
    else:
        with pytest.raises(ConversationNotFound):
            await store.delete_conversation(identity, conversation.id, "")
        assert (await store.get_conversation(ADA, conversation.id)).title == "mine"


async def test_unknown_ids_have_the_same_errors(store):
    for operation, error in (
        (store.get_conversation, ConversationNotFound),
        (store.get_reply, ReplyNotFound),
        (store.get_image, ImageNotFound),
    ):
        with pytest.raises(error) as refused:
            await operation(ADA, "unknown")
        assert str(refused.value) == str(error())


async def test_ping_succeeds(store):
    assert await store.ping() is None
