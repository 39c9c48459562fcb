"""The routes of the chat page that are the same for all products."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Literal, TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from parley._client import Client
from parley._fields import RequestFields
from parley._stream import ReplyStream
from parley.asgi._conversations import ensure_conversation, stop_reply, title_of
from parley.asgi._page_body import body_of, image_of, list_of, number_of, text_of
from parley.asgi._page_json import conversation_json, messages_json, reply_events
from parley.asgi._response import ReplyResponse

Value = TypeVar("Value")
Caller = Callable[[Request], Client | Awaitable[Client]]
Settings = Callable[[Request], RequestFields | Awaitable[RequestFields]]

_PAGE_SIZE = 50
_IMAGE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, max-age=31536000, immutable",
    "Content-Security-Policy": "sandbox",
}


@dataclass(frozen=True, kw_only=True)
class PageConfig:
    """What the page needs to know before the user has signed in."""

    wire: Literal["tasks", "sessions", "image", "chunks", "negotiate", "page"]
    """Which route of the product sends messages."""
    title: str
    login: Literal["none", "demo", "token", "api_key"] = "token"
    images: bool = False


def page_routes(
    caller: Caller,
    config: PageConfig,
    *,
    settings: Settings | None = None,
    sends: bool = False,
    prefix: str = "/api/page",
) -> list[BaseRoute]:
    """Returns the routes of the page for `Starlette(routes=...)` or `FastAPI(routes=...)`.

    `caller` returns the client that acts for the end user of a request, or raises `HTTPException(401)`. `settings`
    returns the fields of a `ReplyRequest` that the product always sets, so that a retry has them, too. With `sends`
    there are also routes to send messages and to list models, for products without a route of their own.
    """
    page = _Page(caller, config, settings or (lambda _: RequestFields()))
    one = prefix + "/conversations/{conversation_id}"
    routes = [
        Route(prefix + "/config", page.config),
        Route(prefix + "/conversations", page.conversations),
        Route(one, page.conversation),
        Route(one, page.delete, methods=["DELETE"]),
        Route(one + "/messages", page.messages),
        Route(one + "/stream", page.stream),
        Route(one + "/stop", page.stop, methods=["POST"]),
        Route(one + "/retry", page.retry, methods=["POST"]),
        Route(prefix + "/images/{image_id}", page.image),
    ]
    if sends:
        routes += [Route(one + "/messages", page.send, methods=["POST"]), Route(prefix + "/models", page.models)]
    return list(routes)


class _Page:
    def __init__(self, caller: Caller, config: PageConfig, settings: Settings) -> None:
        self._caller = caller
        self._config = config
        self._settings = settings

    async def config(self, _request: Request) -> Response:
        return JSONResponse(asdict(self._config))

    async def conversations(self, request: Request) -> Response:
        client = await self._client(request)
        pages = client.conversations.pages(page_size=_PAGE_SIZE, page_token=_page_token(request))
        page = await anext(pages)
        conversations = [conversation_json(each) for each in page.conversations]
        return JSONResponse({"conversations": conversations, "next_page_token": page.next_page_token or None})

    async def conversation(self, request: Request) -> Response:
        client = await self._client(request)
        return JSONResponse(conversation_json(await client.conversations.get(_conversation_id(request))))

    async def delete(self, request: Request) -> Response:
        client = await self._client(request)
        await client.conversations.delete(_conversation_id(request))
        return Response(status_code=204)

    async def messages(self, request: Request) -> Response:
        client = await self._client(request)
        conversation = await client.conversations.get(_conversation_id(request))
        token, leaf = _page_token(request), conversation.head_message_id
        # A token belongs to one branch, which is not the shown one any more once a reply has started or ended.
        leaf, _, token = token.rpartition(".") if token else (leaf, "", "")
        pages = client.conversations.message_pages(
            conversation.id, page_size=_PAGE_SIZE, page_token=token, leaf_message_id=leaf
        )
        page = await anext(pages)
        # While a reply runs, the head is the message that it answers.
        answered = leaf if conversation.active_reply_id else ""
        return JSONResponse(
            {
                "messages": messages_json(page, answered=answered),
                "active_reply_id": conversation.active_reply_id or None,
                "next_page_token": f"{leaf}.{page.next_page_token}" if page.next_page_token else None,
            }
        )

    async def image(self, request: Request) -> Response:
        client = await self._client(request)
        image = await client.conversations.image(request.path_params["image_id"])
        return Response(image.data, media_type=image.mime_type, headers=_IMAGE_HEADERS)

    async def stream(self, request: Request) -> Response:
        client = await self._client(request)
        active_reply_id = (await client.conversations.get(_conversation_id(request))).active_reply_id
        if not active_reply_id:
            return Response(status_code=204)
        after = number_of(request, "after") if request.query_params.get("reply_id") == active_reply_id else 0
        return _response(client.resume(active_reply_id, after_sequence=after), after)

    async def stop(self, request: Request) -> Response:
        client = await self._client(request)
        request_id = text_of(await body_of(request), "request_id", required=False)
        if not request_id:
            return JSONResponse({"status": await stop_reply(client, conversation_id=_conversation_id(request))})
        try:
            return JSONResponse({"status": await stop_reply(client, request_id=request_id)})
        except HTTPException:
            # The request has not arrived yet. It will be accepted as cancelled.
            return JSONResponse({"status": "cancelled"}, 202)

    async def retry(self, request: Request) -> Response:
        client = await self._client(request)
        replaced = text_of(await body_of(request), "replace_message_id")
        fields = await self._fields(request)
        fields["replace_message_id"] = replaced
        return _response(client.stream_reply("", **fields))

    async def send(self, request: Request) -> Response:
        client = await self._client(request)
        body = await body_of(request, required=True)
        text, model = text_of(body, "text", required=False), text_of(body, "model", required=False)
        images = [image_of(each) for each in list_of(body, "images")]
        if not (text or images):
            raise HTTPException(400, "text: must not be empty")
        fields = await self._fields(request)
        fields["images"] = images
        if model:
            fields["model"] = model
        # Checks the request before a conversation is made for it.
        stream = client.stream_reply(text, **fields)
        await ensure_conversation(client, _conversation_id(request), title=title_of(text))
        return _response(stream)

    async def models(self, request: Request) -> Response:
        client = await self._client(request)
        models = [
            {"id": each.alias, "name": each.alias, "images": each.images, "is_default": each.is_default}
            for each in await client.models()
        ]
        return JSONResponse({"models": models})

    async def _client(self, request: Request) -> Client:
        return await _awaited(self._caller(request))

    async def _fields(self, request: Request) -> RequestFields:
        fields = (await _awaited(self._settings(request))).copy()
        fields["conversation_id"] = _conversation_id(request)
        fields["request_id"] = request.headers.get("Idempotency-Key")
        return fields


def _response(stream: ReplyStream, after: int = 0) -> ReplyResponse:
    return ReplyResponse(stream, reply_events(stream, after))


async def _awaited(value: Value | Awaitable[Value]) -> Value:
    return await value if isinstance(value, Awaitable) else value


def _conversation_id(request: Request) -> str:
    return str(request.path_params["conversation_id"])


def _page_token(request: Request) -> str:
    return request.query_params.get("page_token", "")
