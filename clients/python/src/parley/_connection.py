"""One channel to a Parley server, with the caller's identity, and unary calls that try again by themselves."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

import grpc

from parley._backoff import Backoff, Patience
from parley.errors import Unavailable, error_of_status, is_cut
from parley.v1 import catalog_pb2_grpc, chat_pb2_grpc, conversations_pb2_grpc

Request = TypeVar("Request")
Response = TypeVar("Response")

CHANNEL_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.keepalive_time_ms", 30_000),
    # `keepalive_timeout_ms` has no effect in grpcio 1.85; this is what bounds the wait for a ping's answer.
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Probing widens each stream's window until a reader that does not read holds whole replies here: 16 of 1.9 MiB took
    # 40 to 46 MiB, and take 11 to 17 without it, of which the server's chunks of up to 1 MiB are most.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    # gRPC would hide an attempt, and it cannot resume: this client tries again itself.
    ("grpc.enable_retries", 0),
    # Else the channel itself waits up to 2 minutes after a lost connection, whatever the client's own backoff says.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)


class Connection:
    """The channel, its stubs, and what every call carries. Made within a running event loop; `close` ends it."""

    def __init__(
        self,
        address: str,
        *,
        api_key: str | None,
        end_user: str,
        tls: bool | grpc.ChannelCredentials,
        options: Sequence[tuple[str, Any]],
        backoff: Backoff,
        call_timeout_s: float,
    ) -> None:
        self.address = address
        self.backoff = backoff
        self.call_timeout_s = call_timeout_s
        self._ended = asyncio.Event()
        self._api_key = api_key
        self.metadata = _metadata(api_key, end_user=end_user)
        self._channel = _channel(address, tls=tls, options=(*CHANNEL_OPTIONS, *options))
        self.chat = chat_pb2_grpc.ChatStub(self._channel)
        self.conversations = conversations_pb2_grpc.ConversationsStub(self._channel)
        self.catalog = catalog_pb2_grpc.CatalogStub(self._channel)

    @property
    def closed(self) -> bool:
        """Whether it was closed, by whomever of those who share it."""
        return self._ended.is_set()

    def acting_for(self, end_user: str) -> Self:
        """The same channel, for another end user."""
        other = copy.copy(self)
        other.metadata = _metadata(self._api_key, end_user=end_user)
        return other

    async def close(self) -> None:
        """Ends every call and the channel. A stream that is being read fails with `Unavailable`."""
        self._ended.set()
        await self._channel.close()

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request | Callable[[], Request],
        *,
        timeout_s: float | None = None,
        repeatable: bool = True,
    ) -> Response:
        """Calls once, or, where `repeatable`, again after each cut for as long as the backoff allows.

        A `request` that is a function is asked for each attempt's request. `timeout_s` bounds one attempt; None is the
        connection's default, and 0 is no limit. Raises a ParleyError.
        """
        patience = Patience(self.backoff)
        limit_s = self.call_timeout_s if timeout_s is None else timeout_s or None
        while True:
            raise_if_closed(self.closed)
            message = request() if callable(request) else request
            try:
                return await method(message, timeout=limit_s, metadata=self.metadata)
            except asyncio.CancelledError:
                raise_if_closed(self.closed)
                raise
            except grpc.aio.AioRpcError as status:
                error = error_of_status(status)
                delay_s = patience.failed(retry_after_s=error.retry_after_s) if repeatable and is_cut(error) else None
                if delay_s is None:
                    raise error from status
            await self.backoff.sleep(delay_s)


def raise_if_closed(closed: bool) -> None:
    """Raises `Unavailable` where the client was closed, unless the running task itself is being cancelled.

    Closing a channel shows as a CancelledError in whoever waits for one of its calls.
    """
    task = asyncio.current_task()
    if closed and not (task and task.cancelling()):
        raise Unavailable("the client is closed")


def _metadata(api_key: str | None, *, end_user: str) -> tuple[tuple[str, str], ...]:
    pairs = []
    if api_key:
        pairs.append(("authorization", f"Bearer {api_key}"))
    if end_user:
        pairs.append(("x-end-user", end_user))
    for key, value in pairs:
        if not (value.isascii() and value.isprintable()):
            raise ValueError(f"{key}: gRPC metadata takes printable ASCII alone")
    return tuple(pairs)


def _channel(
    address: str, *, tls: bool | grpc.ChannelCredentials, options: Sequence[tuple[str, Any]]
) -> grpc.aio.Channel:
    if tls is False:
        return grpc.aio.insecure_channel(address, options=options)
    credentials = grpc.ssl_channel_credentials() if tls is True else tls
    return grpc.aio.secure_channel(address, credentials, options=options)
