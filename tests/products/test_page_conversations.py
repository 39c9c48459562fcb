"""The page routes of every product that need no running reply: config, conversations, messages and images."""

from __future__ import annotations

import asyncio
import base64
import datetime

import pytest
from parley.v1 import resources_pb2

from tests.products.browsing import PAGE, new_key, shape
from tests.products.lanes import EACH
from tests.products.wires import PIXEL

pytestmark = EACH

CONVERSATION = {"id", "title", "create_time", "update_time", "active_reply_id"}
MESSAGE = {"id", "role", "text", "images", "partial", "create_time", "reply"}
REPLY = {"id", "state", "model", "finish_reason", "input_tokens", "output_tokens", "cost_usd", "error"}


async def test_config_needs_no_token_and_names_the_wire(stand):
    async with stand.browser("ada") as browser:
        browser.forget_token()
        config = await browser.get(f"{PAGE}/config")
    assert config["wire"] == stand.wire.name
    assert config["login"] == ("api_key" if stand.product.name == "ui" else "demo")
    assert config["images"] is stand.wire.images
    assert isinstance(config["title"], str)
    assert config["title"]


async def test_demo_login_gives_a_token_of_that_user(stand, ada, model):
    if stand.product.name == "ui":
        answer = await ada.call("POST", "/api/login", json={"name": "ada"})
        assert answer.status_code == 404, "the page of parley serve takes API keys"
        return
    answer = await ada.call("POST", "/api/login", json={"name": ada.user})
    assert answer.status_code == 200, answer.text
    assert answer.json()["expires_in"] > 0
    ada.use_token(answer.json()["token"])
    conversation = stand.wire.new_conversation()
    assert await stand.wire.ask(ada, conversation) == "Hello, world"
    async with stand.client(ada.user) as client:
        assert (await client.conversations.get(conversation)).end_user == ada.user


@pytest.mark.parametrize("name", ["", "a b", "ä", "a/b", "x" * 65, 7, None])
async def test_demo_login_refuses_other_names(stand, ada, name):
    answer = await ada.call("POST", "/api/login", json={"name": name})
    assert answer.status_code == (404 if stand.product.name == "ui" else 400)
    shape(answer.json())


async def test_a_conversation_is_made_by_its_first_question_with_its_first_60_characters_as_title(stand, ada, model):
    question = "Why does the sky look blue at noon, and red in the evening, when the sun is low?"
    conversation = stand.wire.new_conversation()
    await stand.wire.ask(ada, conversation, question)
    await stand.wire.ask(ada, conversation, "And at night?")
    shown = await ada.conversation(conversation)
    assert set(shown) == CONVERSATION
    assert (shown["id"], shown["active_reply_id"]) == (conversation, None)
    assert shown["title"].strip() == question[:60].strip()
    assert _time(shown["create_time"]) < _time(shown["update_time"])


async def test_conversations_are_listed_by_newest_activity_in_pages_of_50(stand, ada, model):
    ids = [stand.wire.new_conversation() for _ in range(51)]
    async with stand.client(ada.user) as client:
        for each in ids:
            await client.conversations.create(resources_pb2.Conversation(id=each, title=f"about {each}"))
    await stand.wire.ask(ada, ids[0], "again")
    first = await ada.get(f"{PAGE}/conversations")
    assert len(first["conversations"]) == 50
    assert all(set(each) == CONVERSATION for each in first["conversations"])
    second = await ada.get(f"{PAGE}/conversations", params={"page_token": first["next_page_token"]})
    assert second["next_page_token"] is None
    listed = [each["id"] for each in first["conversations"] + second["conversations"]]
    assert listed == [ids[0], *reversed(ids[1:])]


async def test_a_new_user_has_an_empty_list(ada):
    assert await ada.get(f"{PAGE}/conversations") == {"conversations": [], "next_page_token": None}


async def test_a_page_token_of_nobody_is_refused(ada):
    answer = await ada.call("GET", f"{PAGE}/conversations", params={"page_token": "nonsense"})
    assert answer.status_code == 400
    shape(answer.json())


async def test_messages_are_shown_oldest_first_with_their_reply(stand, ada, model):
    conversation = stand.wire.new_conversation()
    await stand.wire.ask(ada, conversation, "one")
    model.says("un", "deux")
    await stand.wire.ask(ada, conversation, "two")
    page = await ada.get(f"{PAGE}/conversations/{conversation}/messages")
    assert (page["active_reply_id"], page["next_page_token"]) == (None, None)
    shown = page["messages"]
    assert [each["role"] for each in shown] == ["user", "assistant"] * 2
    assert [each["text"] for each in shown] == ["one", "Hello, world", "two", "undeux"]
    assert all(set(each) == MESSAGE for each in shown)
    assert [each["reply"] for each in shown[::2]] == [None, None]
    reply = shown[3]["reply"]
    assert set(reply) == REPLY
    assert (reply["state"], reply["finish_reason"], reply["model"], reply["error"]) == (
        "completed",
        "STOP",
        "chat",
        None,
    )
    assert (reply["input_tokens"], reply["output_tokens"]) == (50, 7)
    assert reply["cost_usd"] == pytest.approx(50 * 2e-6 + 7 * 8e-6)
    assert not any(each["partial"] for each in shown)
    assert all(_time(each["create_time"]) for each in shown)


async def test_messages_come_in_pages_of_50_from_the_newest_on(stand, ada):
    conversation = stand.wire.new_conversation()
    roles = (resources_pb2.ROLE_USER, resources_pb2.ROLE_ASSISTANT)
    messages = [
        resources_pb2.Message(role=roles[n % 2], parts=[resources_pb2.Part(text=f"text {n}")]) for n in range(60)
    ]
    async with stand.client(ada.user) as client:
        await client.conversations.create(resources_pb2.Conversation(id=conversation), messages=messages)
    path = f"{PAGE}/conversations/{conversation}/messages"
    first = await ada.get(path)
    assert [each["text"] for each in first["messages"]] == [f"text {n}" for n in range(10, 60)]
    second = await ada.get(path, params={"page_token": first["next_page_token"]})
    assert [each["text"] for each in second["messages"]] == [f"text {n}" for n in range(10)]
    assert second["next_page_token"] is None


async def test_a_deleted_conversation_is_gone(stand, ada, model):
    conversation = stand.wire.new_conversation()
    await stand.wire.ask(ada, conversation)
    answer = await ada.call("DELETE", f"{PAGE}/conversations/{conversation}")
    assert (answer.status_code, answer.content) == (204, b"")
    for path in ("", "/messages", "/stream"):
        answer = await ada.call("GET", f"{PAGE}/conversations/{conversation}{path}")
        assert answer.status_code == 404, path
        assert shape(answer.json()) >= {"message", "error", "code", "retryable"}


async def test_another_user_s_conversation_is_404_on_every_route(stand, ada, ben, model):
    conversation = stand.wire.new_conversation()
    await stand.wire.ask(ada, conversation, "a secret")
    message = (await ada.messages(conversation))[-1]["id"]
    path = f"{PAGE}/conversations/{conversation}"
    calls = [("GET", "", {}), ("DELETE", "", {}), ("GET", "/messages", {}), ("GET", "/stream", {})]
    calls += [("POST", "/stop", {"json": {}})]
    retry = {"json": {"replace_message_id": message}, "headers": {"Idempotency-Key": new_key()}}
    for method, rest, options in [*calls, ("POST", "/retry", retry)]:
        answer = await ben.call(method, path + rest, **options)
        # Nothing of another user runs: `stop` may also say that.
        assert answer.status_code == 404 or (rest, answer.status_code) == ("/stop", 409), (method, rest)
        shape(answer.json())
    if stand.product.name != "ui":  # there each user is a tenant, and ids are unique within a tenant
        async with stand.wire.send(ben, conversation, "mine?") as refused:
            assert refused.status == 404, refused.body
            shape(refused.body)
    assert len(await ada.messages(conversation)) == 2


@pytest.mark.parametrize("image", ["nobody-s", "..%2f..%2fetc%2fpasswd", "x" * 300])
async def test_an_unknown_image_is_404(ada, image):
    answer = await ada.call("GET", f"{PAGE}/images/{image}")
    assert answer.status_code in {400, 404}, answer.text
    shape(answer.json())


async def test_an_image_of_a_question_is_shown_to_its_owner_alone(stand, ada, ben, model):
    if not stand.wire.images:
        pytest.skip("a product without images")
    conversation = stand.wire.new_conversation()
    path, body = stand.wire.request(ada, conversation, "What is it?")
    if stand.wire.name == "page":
        body["images"] = [{"mime_type": "image/png", "data": PIXEL}]
    async with ada.events("POST", path, json=body, headers={"Idempotency-Key": new_key()}) as events:
        await events.rest()
    (image,) = (await ada.messages(conversation))[0]["images"]
    assert image["mime_type"] == "image/png"
    answer = await ada.call("GET", f"{PAGE}/images/{image['id']}")
    assert (answer.status_code, answer.content) == (200, base64.b64decode(PIXEL))
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert answer.headers["content-security-policy"] == "sandbox"
    assert (await ben.call("GET", f"{PAGE}/images/{image['id']}")).status_code == 404


async def test_a_repeated_first_question_makes_one_conversation(stand, ada, model):
    """Two tabs, or a retry after a cut: the same key at the same time."""
    conversation, key = stand.wire.new_conversation(), new_key()
    answers = await asyncio.gather(*(stand.wire.ask(ada, conversation, "once", key=key) for _ in range(3)))
    assert answers == ["Hello, world"] * 3
    assert [each["text"] for each in await ada.messages(conversation)] == ["once", "Hello, world"]
    assert len(model.requests) == 1


def _time(text: str) -> datetime.datetime:
    """A time in RFC 3339 with the offset of UTC."""
    time = datetime.datetime.fromisoformat(text)
    assert time.utcoffset() == datetime.timedelta(0), text
    return time
