"""One channel to a Parley server with the caller's identity, and unary calls with retries."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self, TypeVar

import grpc

from parley import _fork
from parley._backoff import Backoff, Patience
from parley._reach import Reach
from parley._status import error_of_status, may_retry
from parley.errors import CredentialFailed, ParleyError, Unavailable
from parley.v1 import admin_pb2_grpc, catalog_pb2_grpc, chat_pb2_grpc, conversations_pb2_grpc

Request = TypeVar("Request")
Response = TypeVar("Response")
Value = TypeVar("Value")

Credential = str | Callable[[], str | Awaitable[str]]
"""An API key or a token, or a function that returns it for each attempt of a call."""

CREDENTIAL_S: Final = 10.0
"""Time limit of the function for the credential."""

_Metadata = tuple[tuple[str, str], ...]

CHANNEL_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.keepalive_time_ms", 30_000),
    # The time limit of a ping; `keepalive_timeout_ms` has no effect in grpcio 1.85.
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # The probe enlarges each stream's window, so that whole replies are buffered for a reader that does not read: 16
    # replies of 1.9 MiB took 40 to 46 MiB with it and take 11 to 17 MiB without it.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    # The client retries itself: gRPC hides its attempts and cannot resume a stream.
    ("grpc.enable_retries", 0),
    # The default of up to 2 minutes would override the client's own backoff.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Identity, backoff and time limits; see `Client`."""

    api_key: Credential | None = field(repr=False)
    end_user: str
    backoff: Backoff
    stream_backoff: Backoff
    call_timeout_s: float
    silence_s: float
    attempt_timeout_s: float | None


class Connection:
    """A channel, its stubs and the metadata of each call. Create it in a running event loop, and `close` it."""

    def __init__(self, channel: grpc.aio.Channel, settings: Settings, reach: Reach) -> None:
        self.settings = settings
        self._metadata = fixed_metadata(settings.api_key, settings.end_user)
        self.reach = reach
        self._channel = channel
        self._ended = asyncio.Event()
        self.chat = chat_pb2_grpc.ChatStub(channel)
        self.conversations = conversations_pb2_grpc.ConversationsStub(channel)
        self.catalog = catalog_pb2_grpc.CatalogStub(channel)
        self.admin = admin_pb2_grpc.AdminStub(channel)

    def acting_for(self, end_user: str) -> Self:
        """Returns a connection for another end user with the same channel and stubs."""
        other = copy.copy(self)
        other.settings = replace(self.settings, end_user=end_user)
        other._metadata = fixed_metadata(self.settings.api_key, end_user)  # noqa: SLF001 - the same class
        return other

    async def close(self) -> None:
        """Ends all calls and closes the channel. A stream that is being read fails with `Unavailable`.

        Does nothing in a forked process: the channel is the parent's.
        """
        if _fork.is_forked():
            return
        self._ended.set()
        await self._channel.close()

    def check(self) -> None:
        """Raises `Unavailable` if the client was closed, unless the current task is being cancelled.

        A call raises CancelledError in both cases: if its channel is closed, and if its task is cancelled. In a forked
        process that cannot use gRPC, `check` raises RuntimeError.
        """
        _fork.check()
        if self._ended.is_set() and not is_cancelling():
            raise Unavailable("the client is closed")

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request | Callable[[], Request],
        *,
        timeout_s: float | None = None,
        repeatable: bool = True,
    ) -> Response:
        """Calls once; if `repeatable`, again after each cut until the backoff stops it.

        A `request` that is a function returns the request of each attempt. `timeout_s` limits one attempt; None is the
        connection's default, 0 is no limit. Raises a ParleyError.
        """
        patience = Patience(self.settings.backoff)
        limit_s = self.settings.call_timeout_s if timeout_s is None else timeout_s or None
        while True:
            self.check()
            metadata = await self.metadata()
            message = request() if callable(request) else request
            try:
                async with asyncio.timeout(None) as scope:
                    return await self._once(method(message, timeout=limit_s, metadata=metadata), scope, patience)
            except asyncio.CancelledError:
                self.check()
                raise
            except (grpc.aio.AioRpcError, TimeoutError) as failure:
                error = self.error_of(failure)
                delay_s = None
                if repeatable and may_retry(error):
                    delay_s = patience.failed(retry_after_s=error.retry_after_s, reached=self.reach.reached)
                if delay_s is None:
                    raise error from failure
            await self.pause(delay_s)

    async def _once(
        self, call: grpc.aio.UnaryUnaryCall[Request, Response], scope: asyncio.Timeout, patience: Patience
    ) -> Response:
        if self.reach.reached:
            return await call
        timer = self.reach.bound(scope, patience.unreached_s())
        try:
            response = await call
        finally:
            timer.cancel()
        self.reach.reached = True
        return response

    def error_of(self, failure: grpc.aio.AioRpcError | TimeoutError) -> ParleyError:
        """Returns the error of a failed call; TimeoutError stands for a server that was not reached in time."""
        if isinstance(failure, TimeoutError):
            return self.reach.unavailable()
        return self.reach.explain(error_of_status(failure))

    async def metadata(self, *left: asyncio.Event) -> _Metadata:
        """Returns the metadata of one attempt. A function for the credential is called each time.

        Raises `CredentialFailed` if it fails or if one of the events is set, and `Unavailable` if the client is closed.
        """
        if not callable(self.settings.api_key):
            return self._metadata
        try:
            key = await self._race(_ask(self.settings.api_key), *left)
            self.check()
            return (_authorization(key or ""), *self._metadata)
        except (ParleyError, asyncio.CancelledError):
            raise
        except TimeoutError as error:
            raise _credential_failed(f"did not return within {CREDENTIAL_S:g} s") from error
        except Exception as error:
            # The text of the function's own error may contain a secret: only the cause has it.
            raise _credential_failed(f"failed with {type(error).__name__}") from error

    async def pause(self, delay_s: float, *left: asyncio.Event) -> None:
        """Waits until `delay_s` has passed, the client is closed, or one of the events is set."""
        await self._race(_finish(self.settings.backoff.sleep(delay_s)), *left)

    async def _race(self, work: Coroutine[Any, Any, Value], *left: asyncio.Event) -> Value | None:
        """Returns the result of `work`; cancels it and returns None once the client is closed or an event is set."""
        task = asyncio.ensure_future(work)
        ends = [asyncio.ensure_future(each.wait()) for each in (self._ended, *left)]
        try:
            await asyncio.wait((task, *ends), return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            for each in (task, *ends):
                each.cancel()


def open_channel(
    address: str, *, tls: bool | grpc.ChannelCredentials, options: Sequence[tuple[str, Any]]
) -> grpc.aio.Channel:
    """Opens a channel with the client's options; `options` override them.

    Raises RuntimeError in a process that was forked after its parent had opened one.
    """
    options = (*CHANNEL_OPTIONS, *options)
    _fork.open_in_this_process()
    if tls is False:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials() if tls is True else tls, options=options)


def is_cancelling() -> bool:
    """True if the current task is being cancelled."""
    task = asyncio.current_task()
    return bool(task and task.cancelling())


async def _finish(work: Awaitable[Value]) -> Value:
    return await work


async def _ask(function: Callable[[], str | Awaitable[str]]) -> str:
    """Calls the function for the credential. Raises TimeoutError, and whatever the function raises."""
    async with asyncio.timeout(CREDENTIAL_S):
        given = function()
        try:
            return given if isinstance(given, str) else await given
        except asyncio.CancelledError as error:
            if is_cancelling():
                raise
            raise RuntimeError("the function was cancelled") from error


def _credential_failed(what: str) -> CredentialFailed:
    code = grpc.StatusCode.UNAUTHENTICATED
    return CredentialFailed(f"the function for the credential {what}", code=code, retryable=True)


def fixed_metadata(api_key: Credential | None, end_user: str) -> _Metadata:
    """The metadata that is the same for each call. Raises ValueError for what it cannot contain."""
    user = (("x-end-user", _printable("x-end-user", end_user)),) if end_user else ()
    is_fixed = api_key and not callable(api_key)
    return (_authorization(str(api_key)), *user) if is_fixed else user


def _authorization(credential: str) -> tuple[str, str]:
    if not credential:
        raise ValueError("authorization: the credential is empty")
    return "authorization", f"Bearer {_printable('authorization', credential)}"


def _printable(key: str, value: str) -> str:
    if not (value.isascii() and value.isprintable()):
        raise ValueError(f"{key}: only printable ASCII is allowed in gRPC metadata")
    return value
