"""Chat sessions with a character: streams that many tabs watch, reconnect, cancel, and a stored OpenRouter key."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path as File
from typing import Annotated, Any, Final, Literal

import identity
import parley
import parley.asgi
import wire
from fastapi import Depends, FastAPI, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from parley.v1 import resources_pb2
from prompt import Session
from pydantic import BaseModel, Field
from starlette.middleware import Middleware

PROVIDER: Final = "openrouter"
TENANT: Final = os.environ.get("PARLEY_TENANT", "")
PAGE: Final = parley.asgi.PageConfig(
    wire="sessions", title="Roleplay", login="demo" if identity.DEMO_LOGIN else "token"
)
PAGE_FOLDER: Final = os.environ.get("CHAT_PAGE") or File(__file__).parent.parent / "page/dist"
LARGEST_ID: Final = 2**53 - 1  # the largest integer that a JSON number of JavaScript holds exactly


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Two connections to Parley: one acts for the users, the other for the operators of this application."""
    address, key = os.environ.get("PARLEY_ADDRESS", "127.0.0.1:50051"), os.environ.get("PARLEY_API_KEY")
    admin_key = os.environ.get("PARLEY_ADMIN_KEY") or key
    # Without Parley, a request is refused after 10 seconds; a stream survives a restart of a minute.
    soon, later = parley.Backoff(max_elapsed_s=10), parley.Backoff(max_elapsed_s=60)
    async with (
        parley.Client(address, api_key=key, backoff=soon, stream_backoff=later) as app.state.client,
        parley.Client(address, api_key=admin_key, backoff=soon) as app.state.admin,
    ):
        yield


async def caller(request: Request) -> parley.Client:
    """The client that acts for the user of a request."""
    client: parley.Client = request.app.state.client
    return client.acting_for(identity.end_user(request))


async def operator(request: Request) -> None:
    """Lets only operators pass."""
    identity.operator(request)


def settings(_request: Request) -> parley.RequestFields:
    """What every request for an answer says, also a retry of the page."""
    return {"orphan_ttl_s": 300, "time_limit_s": 300}


Caller = Annotated[parley.Client, Depends(caller)]
SessionId = Annotated[int, Path(ge=1, le=LARGEST_ID)]

app = FastAPI(
    title="Roleplay",
    lifespan=lifespan,
    exception_handlers=parley.asgi.exception_handlers(),
    middleware=[Middleware(parley.asgi.LimitBody)],
    responses=parley.asgi.openapi_responses(400, 401, 404),
)
app.include_router(identity.router)
app.routes.extend(parley.asgi.page_routes(caller, PAGE, settings=settings))


class NewMessage(BaseModel):
    """A message of the user."""

    content: str = Field(min_length=1)
    stream: bool = True


class Created(BaseModel):
    """A session that was made."""

    id: int


class Cancelled(BaseModel):
    """The outcome of a cancel."""

    status: Literal["cancelled", "already_finished"]


class NewKey(BaseModel):
    """A key of OpenRouter."""

    api_key: str = Field(min_length=12, max_length=512, pattern="^[!-~]+$")


class Hint(BaseModel):
    """The last characters of the stored key; null without one."""

    hint: str | None


@app.post("/api/chat-sessions", status_code=201)
async def create_session(session: Session, client: Caller) -> Created:
    """Makes a session with its own character, profile and model. Other ids get the defaults at their first message."""
    session_id = secrets.randbelow(LARGEST_ID) + 1
    conversation = resources_pb2.Conversation(id=str(session_id), title=session.title, **session.fields())
    await client.conversations.create(conversation)
    return Created(id=session_id)


@app.post(
    "/api/chat-sessions/{session_id}/send-message",
    responses={200: wire.STREAM, **parley.asgi.openapi_responses(409, 413, 429, 503)},
)
async def send_message(
    session_id: SessionId, new: NewMessage, client: Caller, request: Request,
    idempotency_key: Annotated[str, Header(max_length=128)] = "",
) -> Response:  # fmt: skip
    """Answers a message: as events, or with `stream: false` as JSON with both messages. 409 while an answer runs."""
    fields = settings(request)
    fields["conversation_id"] = str(session_id)
    fields["request_id"] = idempotency_key or None
    stream = client.stream_reply(new.content, **fields)
    title = parley.asgi.title_of(new.content)
    await parley.asgi.ensure_conversation(client, str(session_id), title=title, **Session().fields())
    if new.stream:
        return parley.asgi.ReplyResponse(stream, wire.events)
    end = await parley.asgi.read_to_end(stream)
    return JSONResponse(wire.both_messages(new.content, stream, end))


@app.get(
    "/api/chat-sessions/{session_id}/stream",
    responses={
        200: wire.STREAM,
        204: {"description": "No answer is being written."},
        **parley.asgi.openapi_responses(429),
    },
)
async def watch(session_id: SessionId, client: Caller) -> Response:
    """Watches the running answer, also from further tabs: first all text so far, then what follows."""
    reply_id = (await client.conversations.get(str(session_id))).active_reply_id
    return parley.asgi.ReplyResponse(client.resume(reply_id), wire.events) if reply_id else Response(status_code=204)


@app.post("/api/chat-sessions/{session_id}/cancel-message", responses=parley.asgi.openapi_responses(409))
async def cancel_message(session_id: SessionId, client: Caller) -> Cancelled:
    """Stops the running answer for all who watch it; its text is kept. 409 if no answer runs."""
    return Cancelled(status=await parley.asgi.stop_reply(client, conversation_id=str(session_id)))


@app.put(
    "/api/settings/openrouter-key",
    dependencies=[Depends(operator)],
    responses=parley.asgi.openapi_responses(403, 502),
)
async def set_key(new: NewKey, request: Request) -> Hint:
    """Tests a key with OpenRouter, and stores it encrypted. It is used from the next message on."""
    admin: parley.Client = request.app.state.admin
    key = await admin.admin.set_provider_key(PROVIDER, new.api_key, tenant=TENANT, verify=True)
    return Hint(hint=key.hint)


@app.get("/api/settings/openrouter-key", dependencies=[Depends(operator)], responses=parley.asgi.openapi_responses(403))
async def key_hint(request: Request) -> Hint:
    """Shows the last characters of the stored key."""
    admin: parley.Client = request.app.state.admin
    async for key in admin.admin.provider_keys():
        if (key.provider, key.tenant) == (PROVIDER, TENANT):
            return Hint(hint=key.hint)
    return Hint(hint=None)


@app.get("/api/analytics/cancellations", dependencies=[Depends(operator)], responses=parley.asgi.openapi_responses(403))
async def cancellations(request: Request, days: Annotated[int, Query(ge=1, le=366)] = 30) -> dict[str, Any]:
    """Says how many answers were cancelled, why, and how long their texts were."""
    client: parley.Client = request.app.state.client
    start = datetime.now(UTC) - timedelta(days=days)
    return wire.cancellations([row async for row in client.admin.usage(start_time=start, group_by=["outcome"])])


app.routes.extend(parley.asgi.page_files(PAGE_FOLDER))

if __name__ == "__main__":
    host, port = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", "8000"))
    asyncio.run(parley.asgi.serve(app, host=host, port=port, name="roleplay"))
