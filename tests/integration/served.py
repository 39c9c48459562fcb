"""A server in the test's process, on real sockets and a SQLite file, with callers, streams and refusals."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import sqlite3
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from parley.v1 import (
    admin_pb2_grpc,
    catalog_pb2_grpc,
    chat_pb2,
    chat_pb2_grpc,
    conversations_pb2,
    conversations_pb2_grpc,
    errors_pb2,
    resources_pb2,
)
from parley_server.app import App
from parley_server.settings import load_settings
from parley_server.store.migrate import migrate

from tests.clock import until
from tests.integration.watch import LIMIT_S, Watch
from tests.upstream import Upstream

KEY = "sk-test-key-SENTINEL"
PENDING, STREAMING, COMPLETED, CANCELLED, FAILED = (
    resources_pb2.Reply.STATE_PENDING,
    resources_pb2.Reply.STATE_STREAMING,
    resources_pb2.Reply.STATE_COMPLETED,
    resources_pb2.Reply.STATE_CANCELLED,
    resources_pb2.Reply.STATE_FAILED,
)

CONFIG = """
[providers.up]
kind = "openai"
base_url = "{url}"
api_key = "{key}"
retries = 0
{provider}

[providers.typewriter]
kind = "scripted"

[models.test]
provider = "up"
name = "vendor/test-1"
images = true
max_output_tokens = 1000
prices = {{ prompt = 2.0, cached_prompt = 0.5, completion = 8.0 }}

[models.plain]
provider = "up"
name = "vendor/plain-1"
context_tokens = 100
images = false
tools = false

[models.scripted]
provider = "typewriter"
name = "scripted"
{models}

[server]
default_model = "test"
{server}
"""


# --- refusals


def _size_of_list(headers: dict[str, str | bytes]) -> int:
    """The size of a header list on the wire by the rule of RFC 9113; binary values are base64."""
    return sum(
        32 + len(key) + (len(value) + 2) // 3 * 4 if isinstance(value, bytes) else 32 + len(key) + len(value)
        for key, value in headers.items()
    )


class Refusal:
    """The status, details and trailers of a refused call."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self.code = error.code()
        self.message = error.details()
        self.initial_metadata = tuple(error.initial_metadata() or ())
        trailers = dict(error.trailing_metadata() or ())
        self.raw = trailers.get("grpc-status-details-bin", b"")
        self.plain = errors_pb2.ReplyError.FromString(trailers.get("parley-error-bin", b""))
        self.status = status_pb2.Status.FromString(self.raw)
        self.trailer_bytes = _size_of_list({":status": "200", "grpc-message": quote(self.message, safe=""), **trailers})

    def detail(self, kind: type[Any]) -> Any:
        """The detail of this type, or None."""
        for each in self.status.details:
            if each.Is(kind.DESCRIPTOR):
                found = kind()
                each.Unpack(found)
                return found
        return None

    @property
    def info(self) -> error_details_pb2.ErrorInfo:
        return self.detail(error_details_pb2.ErrorInfo)

    @property
    def reason(self) -> str:
        """The reason; checks that the status, its details and `parley-error-bin` agree."""
        assert self.info.domain == "parley.v1"
        assert self.plain.reason == errors_pb2.ErrorReason.Value(f"ERROR_REASON_{self.info.reason}")
        assert self.plain.code == self.code.value[0] == self.status.code
        assert self.plain.message == self.message == self.status.message
        assert dict(self.plain.metadata) == dict(self.info.metadata)
        return self.info.reason

    @property
    def retry_after_s(self) -> float | None:
        """The delay of RetryInfo; checks that `parley-error-bin` has one too."""
        retry = self.detail(error_details_pb2.RetryInfo)
        assert (retry is not None) == self.plain.HasField("retry_after")
        return None if retry is None else retry.retry_delay.ToTimedelta().total_seconds()

    @property
    def fields(self) -> list[str]:
        """The fields of BadRequest's violations."""
        bad = self.detail(error_details_pb2.BadRequest)
        return [] if bad is None else [violation.field for violation in bad.field_violations]


async def refused(call: Any) -> Refusal:
    """The refusal of a unary call or of a stream; fails if the call succeeds."""
    try:
        async with asyncio.timeout(LIMIT_S):
            if isinstance(call, grpc.aio.UnaryStreamCall):
                chunks = [chunk async for chunk in call]
            else:
                chunks = await call
    except grpc.aio.AioRpcError as error:
        return Refusal(error)
    raise AssertionError(f"was not refused: {chunks}")


# --- the server


class Caller:
    """Stubs on a separate channel, for one end user; empty is the tenant without an end user. `bearer` is an API key or
    a token."""

    def __init__(
        self, port: int, end_user: str = "", *, bearer: str = "", options: Iterable[tuple[str, Any]] = ()
    ) -> None:
        # gRPC shares connections between channels unless each has a local subchannel pool.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0), *options]
        shown = {"x-end-user": end_user, "authorization": f"Bearer {bearer}" if bearer else ""}
        pairs = [(key, value) for key, value in shown.items() if value]
        interceptors = [_CallerUnary(pairs), _CallerStream(pairs)] if pairs else []
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options, interceptors=interceptors)
        self.chat = chat_pb2_grpc.ChatStub(self.channel)
        self.conversations = conversations_pb2_grpc.ConversationsStub(self.channel)
        self.catalog = catalog_pb2_grpc.CatalogStub(self.channel)
        self.admin = admin_pb2_grpc.AdminStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def stream(self, text: str = "Hi", **fields: Any) -> Watch:
        """StreamReply, read in the background."""
        return Watch(self.chat.StreamReply(ask(text, **fields)))

    def resume(self, reply_id: str, after: int = 0, **options: Any) -> Watch:
        """ResumeReply, read in the background."""
        request = chat_pb2.ResumeReplyRequest(
            reply_id=reply_id, after_sequence=after, stream_options=chat_pb2.StreamOptions(**options)
        )
        return Watch(self.chat.ResumeReply(request))

    async def get(self, reply_id: str) -> resources_pb2.Reply:
        return await self.chat.GetReply(chat_pb2.GetReplyRequest(reply_id=reply_id), timeout=LIMIT_S)

    async def poll(self, reply_id: str, after: int = 0, **fields: Any) -> chat_pb2.PollReplyResponse:
        """PollReply; `wait` and `gather` in seconds."""
        timed = {name: duration(value) if name in ("wait", "gather") else value for name, value in fields.items()}
        request = chat_pb2.PollReplyRequest(reply_id=reply_id, after_sequence=after, **timed)
        async with asyncio.timeout(LIMIT_S):  # a deadline of the call would shorten its wait
            return await self.chat.PollReply(request)

    async def cancel(self, reply_id: str = "", **target: str) -> resources_pb2.Reply:
        """Cancel, by `reply_id`, `request_id` or `conversation_id`."""
        named = {"reply_id": reply_id} if reply_id else {}
        return await self.chat.Cancel(chat_pb2.CancelRequest(**named, **target), timeout=LIMIT_S)

    async def create(self, text: str = "Hi", *, timeout_s: float = LIMIT_S, **fields: Any) -> resources_pb2.Reply:
        """CreateReply; `wait` in seconds."""
        return await self.chat.CreateReply(ask(text, **fields), timeout=timeout_s)

    async def messages(self, conversation_id: str, **fields: Any) -> conversations_pb2.ListMessagesResponse:
        request = conversations_pb2.ListMessagesRequest(conversation_id=conversation_id, **fields)
        return await self.conversations.ListMessages(request, timeout=LIMIT_S)

    async def conversation(self, conversation_id: str) -> resources_pb2.Conversation:
        request = conversations_pb2.GetConversationRequest(conversation_id=conversation_id)
        return await self.conversations.GetConversation(request, timeout=LIMIT_S)

    async def new_conversation(
        self, messages: Iterable[resources_pb2.Message] = (), *, request_id: str = "", **fields: Any
    ) -> resources_pb2.Conversation:
        request = conversations_pb2.CreateConversationRequest(
            conversation=resources_pb2.Conversation(**fields), messages=messages, request_id=request_id
        )
        return await self.conversations.CreateConversation(request, timeout=LIMIT_S)

    async def delete(self, conversation_id: str, etag: str = "") -> None:
        request = conversations_pb2.DeleteConversationRequest(conversation_id=conversation_id, etag=etag)
        await self.conversations.DeleteConversation(request, timeout=LIMIT_S)

    async def ready(self, service: str = "") -> bool:
        """Whether the health service reports SERVING."""
        answer = await self.health.Check(health_pb2.HealthCheckRequest(service=service), timeout=LIMIT_S)
        return answer.status == health_pb2.HealthCheckResponse.SERVING


class _Caller:
    """Adds the caller to the metadata of a call."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs = pairs

    async def _intercept(self, continuation: Any, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        metadata = grpc.aio.Metadata(*(details.metadata or ()), *self._pairs)
        return await continuation(details._replace(metadata=metadata), request)


class _CallerUnary(_Caller, grpc.aio.UnaryUnaryClientInterceptor):
    intercept_unary_unary = _Caller._intercept


class _CallerStream(_Caller, grpc.aio.UnaryStreamClientInterceptor):
    intercept_unary_stream = _Caller._intercept


class Server(Caller):
    """A running App; it is also a caller of the tenant without an end user."""

    def __init__(self, app: App, folder: Path, upstream: Upstream, *, start: Callable[[], Any], clock: Any) -> None:
        super().__init__(app.port)
        self.app = app
        self._clock = clock
        self._stopping: asyncio.Task[None] | None = None
        self.folder = folder
        self.upstream = upstream
        self._start = start
        self._callers: list[Caller] = []

    def caller(self, end_user: str = "", **options: Any) -> Caller:
        """Another caller, on another connection."""
        caller = Caller(self.app.port, end_user, **options)
        self._callers.append(caller)
        return caller

    @property
    def running(self) -> dict[str, Any]:
        """Generations by reply id."""
        return self.app.mode.core.live_replies.running

    def sql(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """The rows of a query on the database file, on a separate connection."""
        with contextlib.closing(sqlite3.connect(self.folder / "parley.db", timeout=5.0)) as connection, connection:
            return connection.execute(statement, parameters).fetchall()

    async def restart(self) -> Server:
        """Stop, then start another server on the same file."""
        await self.stop()
        return await self._start()

    async def stop(self) -> None:
        """Stop it and close all its callers; a second call does nothing."""
        if self.app is None:
            return
        app, self.app = self.app, None
        for caller in (self, *self._callers):
            await caller.channel.close()
        await self.in_time(self._stopping or app.stop(grace_s=0.0))

    def begin_stop(self, grace_s: float) -> asyncio.Task[None]:
        """Begin to stop it, as SIGTERM does; the task ends when it has stopped."""
        self._stopping = asyncio.create_task(self.app.stop(grace_s=grace_s))
        return self._stopping

    async def in_time(self, work: Awaitable[Any]) -> Any:
        """The result of `work`, while the manual clock advances."""
        task = asyncio.ensure_future(work)
        async with asyncio.timeout(LIMIT_S):
            while self._clock is not None and not task.done():
                await self._clock.advance(0.1)
                await asyncio.sleep(0.002)
            return await task

    async def leap(self, seconds: float) -> None:
        """Move the clock in one step, so that timers due in between run late and once, as after a suspended machine."""
        self._clock._now_s += seconds
        await self._clock.advance(0.0)


@contextlib.asynccontextmanager
async def serving(
    folder: Path,
    upstream: Upstream,
    *,
    clock: Any = None,
    provider: str = "",
    url: str = "",
    key: str = "env:UPSTREAM_KEY",
    models: str = "",
    access: str = "",
    encryption_keys: str = "",
    environment: Mapping[str, str] | None = None,
    **settings: Any,
) -> AsyncIterator[Callable[[], Any]]:
    """Yields a function that starts a server on the folder's database; stops all servers at the end."""
    config = folder / "parley.toml"
    lines = "\n".join(f"{key} = {_toml(value)}" for key, value in settings.items())
    text = CONFIG.format(url=url or upstream.url, key=key, provider=provider, models=models, server=lines)
    config.write_text(text + access)
    variables = {
        "PARLEY_CONFIG": str(config),
        "PARLEY_LISTEN": "127.0.0.1:0",
        "PARLEY_METRICS_LISTEN": "127.0.0.1:0",
        "PARLEY_DATABASE_URL": f"sqlite+aiosqlite:///{folder / 'parley.db'}",
        "PARLEY_ENCRYPTION_KEYS": encryption_keys,
        "UPSTREAM_KEY": KEY,
        **(environment or {}),
    }
    servers: list[Server] = []

    async def start() -> Server:
        app = App(load_settings(variables), clock=clock)
        await app.start()
        if clock is not None:
            await app._monitor.stop()  # it compares the clock with CPU time
        servers.append(Server(app, folder, upstream, start=start, clock=clock))
        return servers[-1]

    try:
        yield start
    finally:
        for server in servers:
            await server.stop()


def fresh_database(path: Path) -> bytes:
    """The contents of a database file with the schema and no rows."""
    migrate(f"sqlite+aiosqlite:///{path}")
    return path.read_bytes()


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def tenant(name: str, *keys: str, **settings: Any) -> str:
    """A table `[tenants.NAME]` with these API keys."""
    digests = [hashlib.sha256(key.encode()).hexdigest() for key in keys]
    lines = [f"{key} = {_toml(value)}" for key, value in ({"api_keys_sha256": digests} | settings).items()]
    return "\n".join([f"[tenants.{name}]", *lines, ""])


# --- builders


def ask(text: str = "Hi", **fields: Any) -> chat_pb2.ReplyRequest:
    """A request with a new `request_id`; `wait`, `orphan_ttl`, `time_limit` and `heartbeat` are in seconds."""
    for name in ("wait", "orphan_ttl", "time_limit"):
        if name in fields:
            fields[name] = duration(fields[name])
    options = {name: fields.pop(name) for name in ("heartbeat", "reasoning") if name in fields}
    if "heartbeat" in options:
        options["heartbeat"] = duration(options["heartbeat"])
    if options:
        fields["stream_options"] = chat_pb2.StreamOptions(**options)
    fields.setdefault("request_id", str(uuid.uuid4()))
    if text and "input" not in fields:
        fields["text"] = text
    return chat_pb2.ReplyRequest(**fields)


def duration(seconds: float) -> Duration:
    whole = int(seconds)
    return Duration(seconds=whole, nanos=round((seconds - whole) * 1e9))


def new_message(role: str, *texts: str, **parts: Any) -> resources_pb2.Message:
    """A message: "user", "assistant" or "tool"."""
    content = [resources_pb2.Part(text=text) for text in texts]
    content += [resources_pb2.Part(**{kind: value}) for kind, value in parts.items()]
    return resources_pb2.Message(role=resources_pb2.Role.Value(f"ROLE_{role.upper()}"), parts=content)


def text_of(holder: Any) -> str:
    """The text of a message, or of a reply's message."""
    message = holder.message if isinstance(holder, resources_pb2.Reply) else holder
    return "".join(part.text for part in message.parts)


def reason(name: str) -> Any:
    """A finish reason by its short name."""
    return resources_pb2.FinishReason.Value(f"FINISH_REASON_{name}")


def error_reason(name: str) -> Any:
    """An error reason by its short name."""
    return errors_pb2.ErrorReason.Value(f"ERROR_REASON_{name}")


async def until_sql(server: Server, statement: str, expected: list[tuple[Any, ...]]) -> None:
    """Wait until the query returns these rows."""
    await until(lambda: server.sql(statement) == expected, LIMIT_S)
