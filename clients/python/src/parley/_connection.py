"""One channel to a Parley server with the caller's identity, and unary calls with retries."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

import grpc

from parley._backoff import Backoff, Patience
from parley._reach import Reach
from parley._status import error_of_status, is_cut
from parley.errors import ParleyError, Unavailable
from parley.v1 import catalog_pb2_grpc, chat_pb2_grpc, conversations_pb2_grpc

Request = TypeVar("Request")
Response = TypeVar("Response")

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

    api_key: str | None
    end_user: str
    backoff: Backoff
    call_timeout_s: float
    silence_s: float
    attempt_timeout_s: float | None


class Connection:
    """A channel, its stubs and the metadata of each call. Create it in a running event loop, and `close` it."""

    def __init__(self, channel: grpc.aio.Channel, settings: Settings, reach: Reach) -> None:
        self.settings = settings
        self.metadata = _metadata(settings)
        self.reach = reach
        self._channel = channel
        self._ended = asyncio.Event()
        self.chat = chat_pb2_grpc.ChatStub(channel)
        self.conversations = conversations_pb2_grpc.ConversationsStub(channel)
        self.catalog = catalog_pb2_grpc.CatalogStub(channel)

    def acting_for(self, end_user: str) -> Self:
        """Returns a connection for another end user with the same channel and stubs."""
        other = copy.copy(self)
        other.settings = replace(self.settings, end_user=end_user)
        other.metadata = _metadata(other.settings)
        return other

    async def close(self) -> None:
        """Ends all calls and closes the channel. A stream that is being read fails with `Unavailable`."""
        self._ended.set()
        await self._channel.close()

    def check(self) -> None:
        """Raises `Unavailable` if the client was closed, unless the current task is being cancelled.

        A call raises CancelledError in both cases: if its channel is closed, and if its task is cancelled.
        """
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
            message = request() if callable(request) else request
            try:
                async with asyncio.timeout(None) as scope:
                    return await self._once(method(message, timeout=limit_s, metadata=self.metadata), scope, patience)
            except asyncio.CancelledError:
                self.check()
                raise
            except (grpc.aio.AioRpcError, TimeoutError) as failure:
                error = self.error_of(failure)
                delay_s = None
                if repeatable and is_cut(error):
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

    async def pause(self, delay_s: float, *left: asyncio.Event) -> None:
        """Waits until `delay_s` has passed, the client is closed, or one of the events is set."""
        ends = [each.wait() for each in (self._ended, *left)]
        waits = [asyncio.ensure_future(each) for each in (self.settings.backoff.sleep(delay_s), *ends)]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for each in done:
                each.result()  # a replaced `sleep` may have failed
        finally:
            for each in waits:
                each.cancel()


def open_channel(
    address: str, *, tls: bool | grpc.ChannelCredentials, options: Sequence[tuple[str, Any]]
) -> grpc.aio.Channel:
    """Opens a channel with the client's options; `options` override them."""
    options = (*CHANNEL_OPTIONS, *options)
    if tls is False:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials() if tls is True else tls, options=options)


def is_cancelling() -> bool:
    """True if the current task is being cancelled."""
    task = asyncio.current_task()
    return bool(task and task.cancelling())


def _metadata(settings: Settings) -> tuple[tuple[str, str], ...]:
    bearer = f"Bearer {settings.api_key}" if settings.api_key else ""
    pairs = tuple(pair for pair in (("authorization", bearer), ("x-end-user", settings.end_user)) if pair[1])
    for key, value in pairs:
        if not (value.isascii() and value.isprintable()):
            raise ValueError(f"{key}: only printable ASCII is allowed in gRPC metadata")
    return pairs
