"""One endpoint for chat messages: the header `Accept` decides between server-sent events and one JSON answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import codes
import identity
import parley
import parley.asgi
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from parley import Finished, ParleyError, Text
from parley.v1 import resources_pb2
from pydantic import BaseModel, Field
from starlette.middleware import Middleware

MESSAGES: Final = "/api/v1/messages"
PAGE: Final = parley.asgi.PageConfig(
    wire="negotiate", title="Negotiate", login="demo" if identity.DEMO_LOGIN else "token"
)
PAGE_FOLDER: Final = os.environ.get("CHAT_PAGE") or Path(__file__).parent.parent / "page/dist"
STREAM: Final = parley.asgi.openapi_events(
    token={"content": "string"},
    complete={"model": "string", "totalTokens": "integer"},
    error={"error": "string", "code": "string", "message": "string", "retryable": "boolean"},
)
ROLES: Final = {"user": resources_pb2.ROLE_USER, "assistant": resources_pb2.ROLE_ASSISTANT}


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One connection to Parley for all users."""
    address, key = os.environ.get("PARLEY_ADDRESS", "127.0.0.1:50051"), os.environ.get("PARLEY_API_KEY")
    # Without Parley, a request is refused after 10 seconds; a stream survives a restart of a minute.
    soon, later = parley.Backoff(max_elapsed_s=10), parley.Backoff(max_elapsed_s=60)
    async with parley.Client(address, api_key=key, backoff=soon, stream_backoff=later) as app.state.client:
        yield


async def caller(request: Request) -> parley.Client:
    """The client that acts for the user of a request."""
    client: parley.Client = request.app.state.client
    return client.acting_for(identity.end_user(request))


app = FastAPI(
    title="Negotiate",
    lifespan=lifespan,
    exception_handlers=parley.asgi.exception_handlers(),
    responses=parley.asgi.openapi_responses(400, 401, 413),
    middleware=[Middleware(parley.asgi.LimitBody)],
)
app.include_router(identity.router)
app.routes.extend(parley.asgi.page_routes(caller, PAGE))


class Turn(BaseModel):
    """A message of a conversation that the caller keeps itself."""

    role: Literal["user", "assistant"]
    content: str = Field(min_length=1)


class NewMessage(BaseModel):
    """A message, in a stored conversation or after the caller's own history."""

    message: str = Field(min_length=1)
    history: list[Turn] = Field(default=[], max_length=1000)
    model: str = ""
    conversation_id: str = ""


@app.post(MESSAGES, responses={200: STREAM, **parley.asgi.openapi_responses(404, 409, 429, 502, 503)})
async def send(
    new: NewMessage,
    client: Annotated[parley.Client, Depends(caller)],
    accept: Annotated[str, Header()] = "*/*",
    idempotency_key: Annotated[str, Header(max_length=128)] = "",
) -> Response:
    """Streams the answer as events, or returns it whole."""
    stream = await ask(client, new, idempotency_key)
    if wants_events(accept):
        return parley.asgi.ReplyResponse(stream, events)
    return JSONResponse(answer(await parley.asgi.read_to_end(stream)))


async def ask(client: parley.Client, new: NewMessage, key: str) -> parley.ReplyStream:
    """Returns the stream of the answer, which starts when it is first read."""
    fields: parley.RequestFields = {"request_id": key or None, "model": new.model}
    title = parley.asgi.title_of(new.message)
    if not new.conversation_id:
        fields["input"] = [message_of(turn) for turn in [*new.history, Turn(role="user", content=new.message)]]
        fields["new_conversation"] = resources_pb2.Conversation(title=title)
        return client.stream_reply("", **fields)
    if new.history:
        raise HTTPException(400, "history: is only for messages without conversation_id, whose history is stored")
    fields["conversation_id"] = new.conversation_id
    stream = client.stream_reply(new.message, **fields)
    await parley.asgi.ensure_conversation(client, new.conversation_id, title=title)
    return stream


def message_of(turn: Turn) -> resources_pb2.Message:
    """Converts a turn to a message of Parley."""
    return resources_pb2.Message(role=ROLES[turn.role], parts=[resources_pb2.Part(text=turn.content)])


def wants_events(accept: str) -> bool:
    """True if the caller names event streams, and the operator has not switched streaming off."""
    kinds = [each.partition(";")[0].strip().lower() for each in accept.split(",")]
    return "text/event-stream" in kinds and os.environ.get("STREAMING") != "off"


def events(event: parley.Event | ParleyError) -> dict[str, Any] | None:
    """The events of this API."""
    match event:
        case Text():
            return {"type": "token", "content": event.text}
        case Finished():
            whole = answer(event)
            return {"type": "complete", "model": whole["model"], "totalTokens": whole["totalTokens"]}
        case ParleyError():
            return {"type": "error", **codes.error_json(event)}
    return None


def answer(end: Finished) -> dict[str, Any]:
    """The JSON answer."""
    total = end.usage.prompt_tokens + end.usage.completion_tokens
    return {"content": end.text, "model": end.model, "totalTokens": total}


@app.exception_handler(ParleyError)
async def refused(request: Request, error: ParleyError) -> Response:
    """Answers refusals; those of this API with its own codes."""
    refusal = parley.asgi.refusal(error)
    if request.url.path == MESSAGES:
        refusal.body.update(codes.error_json(error))
    return refusal.response()


app.routes.extend(parley.asgi.page_files(PAGE_FOLDER))

if __name__ == "__main__":
    host, port = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", "8000"))
    asyncio.run(parley.asgi.serve(app, host=host, port=port, name="negotiate"))
