"""Images are stored in a table of their own, read by GetImage, and sent to the provider as data URLs."""

import base64

import grpc
import pytest
from parley.v1 import conversations_pb2, resources_pb2

from tests.integration.served import ask, new_message, refused

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200))
KINDS = {
    "image/png": PNG,
    "image/jpeg": b"\xff\xd8\xff\xe0" + b"j" * 50,
    "image/gif": b"GIF89a" + b"g" * 50,
    "image/webp": b"RIFF\x00\x00\x00\x00WEBP" + b"w" * 50,
}
Image = resources_pb2.Image


async def image_of(caller, image_id):
    return await caller.conversations.GetImage(conversations_pb2.GetImageRequest(image_id=image_id))


def last_content(upstream, number=-1):
    """The content of the newest message of a request."""
    return upstream.requests[number].json["messages"][-1]["content"]


def data_url(mime_type, data):
    return f"data:{mime_type};base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize("mime_type", KINDS)
async def test_an_image_is_stored_sent_to_the_provider_and_read(server, upstream, mime_type):
    data = KINDS[mime_type]
    message = new_message("user", "What is it?", image=Image(data=data))
    watch = await server.stream("", input=[message]).end()
    assert last_content(upstream) == [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": data_url(mime_type, data)}},
    ]
    page = await server.messages(watch.conversation_id)
    stored = page.messages[1].parts[1].image
    assert stored == Image(image_id=stored.image_id, mime_type=mime_type, size_bytes=len(data))
    assert stored.image_id
    assert await image_of(server, stored.image_id) == Image(data=data, mime_type=mime_type, size_bytes=len(data))
    (row,) = server.sql("select parts from message where role = 'USER'")
    assert base64.b64encode(data).decode()[:40] not in row[0]
    assert server.sql("select data from image") == [(data,)]


async def test_an_earlier_image_is_part_of_later_prompts_and_can_be_referenced(server, upstream):
    first = await server.stream("", input=[new_message("user", "Look", image=Image(data=PNG))]).end()
    await server.stream("And?", conversation_id=first.conversation_id).end()
    history = upstream.requests[-1].json["messages"][0]["content"]
    assert history[1]["image_url"]["url"] == data_url("image/png", PNG)
    page = await server.messages(first.conversation_id)
    image_id = page.messages[-1].parts[1].image.image_id
    named = new_message("user", "This one", image=Image(image_id=image_id))
    await server.stream(
        "", input=[named], conversation_id=first.conversation_id, after_message_id=page.messages[0].id
    ).end()
    assert last_content(upstream)[1]["image_url"]["url"] == data_url("image/png", PNG)
    assert server.sql("select count(*) from image") == [(1,)]
    newest = (await server.messages(first.conversation_id)).messages[1].parts[1].image
    assert newest.image_id == image_id


async def test_an_image_of_another_conversation_is_not_found(server):
    first = await server.stream("", input=[new_message("user", "Look", image=Image(data=PNG))]).end()
    image_id = (await server.messages(first.conversation_id)).messages[1].parts[1].image.image_id
    other = await server.new_conversation([new_message("user", "x")])
    named = new_message("user", "This one", image=Image(image_id=image_id))
    for fields in ({"conversation_id": other.id}, {}):
        error = await refused(server.chat.StreamReply(ask("", input=[named], **fields)))
        assert (error.reason, error.code) == ("IMAGE_NOT_FOUND", grpc.StatusCode.NOT_FOUND)
    assert server.sql("select count(*) from reply") == [(1,)]


async def test_an_https_image_is_passed_on_without_being_fetched(server, upstream):
    url = "https://example.invalid/cat.png"
    watch = await server.stream(
        "", input=[new_message("user", "Look", image=Image(url=url, mime_type="image/png"))]
    ).end()
    assert last_content(upstream)[1] == {"type": "image_url", "image_url": {"url": url}}
    stored = (await server.messages(watch.conversation_id)).messages[1].parts[1].image
    assert stored == Image(url=url, mime_type="image/png")
    assert server.sql("select count(*) from image") == [(0,)]


async def test_an_image_of_an_imported_history_is_stored_and_sent(server, upstream):
    created = await server.new_conversation([new_message("user", "Look", image=Image(data=PNG))])
    stored = (await server.messages(created.id)).messages[0].parts[1].image
    assert (await image_of(server, stored.image_id)).data == PNG
    await server.stream("And?", conversation_id=created.id).end()
    assert upstream.requests[-1].json["messages"][0]["content"][1]["image_url"]["url"] == data_url("image/png", PNG)


async def test_a_history_with_images_is_refused_by_a_model_without_images(serve):
    server = await serve(models='[models.blind]\nprovider = "up"\nname = "vendor/blind-1"\nimages = false')
    watch = await server.stream("", input=[new_message("user", "Look", image=Image(data=PNG))]).end()
    error = await refused(server.chat.StreamReply(ask("And?", conversation_id=watch.conversation_id, model="blind")))
    assert error.reason == "UNSUPPORTED_INPUT"
