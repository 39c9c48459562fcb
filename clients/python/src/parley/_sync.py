"""The blocking client: it runs the asynchronous one in a background thread, and waits for its results."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import functools
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import grpc

from parley._background import Caller, Core
from parley._backoff import Backoff
from parley._client import Client
from parley._connection import Credential, fixed_metadata
from parley._fields import RequestFields
from parley._sync_resources import SyncAdmin, SyncConversations
from parley._sync_stream import SyncReplyStream
from parley.v1 import chat_pb2, resources_pb2


class SyncClient:
    """Blocking client of a Parley server, for Django, Flask, Celery, scripts and notebooks.

    It takes the arguments of `Client`, and has its methods, events and errors. Any number of threads may use it, also
    those with a running event loop, but a coroutine that calls it blocks its loop. Ctrl-C ends a waiting call at once.

    A function for the credential may block, since each of its calls has a thread of its own.

    Nothing is opened before the first call, so that a client that was made before a fork works in the child process.
    After a call in the parent, calls in the child raise RuntimeError.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        *,
        api_key: Credential | None = None,
        end_user: str = "",
        tls: bool | grpc.ChannelCredentials = False,
        backoff: Backoff | None = None,
        stream_backoff: Backoff | None = None,
        call_timeout_s: float = 30.0,
        silence_s: float = 90.0,
        attempt_timeout_s: float | None = None,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        fixed_metadata(api_key, end_user)
        make = functools.partial(
            Client,
            address,
            api_key=_in_thread(api_key) if callable(api_key) else api_key,
            end_user=end_user,
            tls=tls,
            backoff=backoff,
            stream_backoff=stream_backoff,
            call_timeout_s=call_timeout_s,
            silence_s=silence_s,
            attempt_timeout_s=attempt_timeout_s,
            options=options,
        )
        self._attach(Caller(Core(make)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all calls and closes the connection. See `Client.close`."""
        self._caller.core.close()

    def acting_for(self, end_user: str) -> Self:
        """Returns a client for another end user that shares this client's connection. See `Client.acting_for`."""
        fixed_metadata(None, end_user)
        other = copy.copy(self)
        other._attach(self._caller.acting_for(end_user))  # noqa: SLF001 - the same class
        return other

    def stream_reply(self, message: str | chat_pb2.ReplyRequest, **fields: Unpack[RequestFields]) -> SyncReplyStream:
        """Returns a stream that starts a reply when it is first read. See `Client.stream_reply`."""
        return SyncReplyStream(self._caller, self._inner.stream_reply(message, **fields))

    def resume(
        self, reply_id: str, *, after_sequence: int = 0, reasoning: bool = False, heartbeat_s: float | None = None
    ) -> SyncReplyStream:
        """Returns a stream of a running or finished reply, after a cursor. See `Client.resume`."""
        stream = self._inner.resume(
            reply_id, after_sequence=after_sequence, reasoning=reasoning, heartbeat_s=heartbeat_s
        )
        return SyncReplyStream(self._caller, stream)

    def create_reply(
        self,
        message: str | chat_pb2.ReplyRequest,
        *,
        wait_s: float | None = None,
        **fields: Unpack[RequestFields],
    ) -> resources_pb2.Reply:
        """Starts a reply, and waits for its end for at most `wait_s`. See `Client.create_reply`."""
        return self._run(self._inner.create_reply(message, wait_s=wait_s, **fields))

    def poll(
        self,
        reply_id: str,
        *,
        after_sequence: int = 0,
        wait_s: float = 20.0,
        gather_s: float | None = None,
        reasoning: bool = False,
    ) -> chat_pb2.PollReplyResponse:
        """Returns the chunks after `after_sequence`. See `Client.poll`."""
        poll = self._inner.poll(
            reply_id, after_sequence=after_sequence, wait_s=wait_s, gather_s=gather_s, reasoning=reasoning
        )
        return self._run(poll)

    def polls(
        self,
        reply_id: str,
        *,
        after_sequence: int = 0,
        wait_s: float = 20.0,
        gather_s: float | None = None,
        reasoning: bool = False,
    ) -> Iterator[chat_pb2.PollReplyResponse]:
        """Polls until the terminal chunk and yields each response. See `Client.polls`."""
        polls = self._inner.polls(
            reply_id, after_sequence=after_sequence, wait_s=wait_s, gather_s=gather_s, reasoning=reasoning
        )
        return self._caller.iterate(polls)

    def cancel(
        self, *, reply_id: str = "", request_id: str = "", conversation_id: str = "", reason: str = ""
    ) -> resources_pb2.Reply:
        """Stops a reply, named in exactly one of three ways. See `Client.cancel`."""
        cancel = self._inner.cancel(
            reply_id=reply_id, request_id=request_id, conversation_id=conversation_id, reason=reason
        )
        return self._run(cancel)

    def get_reply(self, reply_id: str) -> resources_pb2.Reply:
        """Returns the current state of the reply."""
        return self._run(self._inner.get_reply(reply_id))

    def models(self) -> list[resources_pb2.Model]:
        """Returns the models that the caller may use."""
        return self._run(self._inner.models())

    def quotas(self) -> list[resources_pb2.Quota]:
        """Returns the caller's limits and their current use."""
        return self._run(self._inner.quotas())

    def _attach(self, caller: Caller) -> None:
        self._caller = caller
        self._run = caller.run
        self.conversations = SyncConversations(caller)
        self.admin = SyncAdmin(caller)

    @property
    def _inner(self) -> Client:
        return self._caller.client


def _in_thread(function: Callable[[], str | Awaitable[str]]) -> Callable[[], Awaitable[str]]:
    """The same function for the background loop: it may block, in a thread of its own."""

    async def give() -> str:
        loop = asyncio.get_running_loop()
        called: asyncio.Future[str | Awaitable[str] | Exception] = loop.create_future()

        def settle(given: str | Awaitable[str] | Exception) -> None:
            if not called.done():
                called.set_result(given)

        def call() -> None:
            try:
                given: str | Awaitable[str] | Exception = function()
            except Exception as error:  # noqa: BLE001 - raised below
                given = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: the interpreter exits
                loop.call_soon_threadsafe(settle, given)

        # Not in an executor, whose threads the interpreter joins at its exit: a function that hangs would keep it.
        threading.Thread(
            target=contextvars.copy_context().run, args=(call,), name="parley-credential", daemon=True
        ).start()
        given = await called
        if isinstance(given, Exception):
            raise given
        return given if isinstance(given, str) else await given

    return give
