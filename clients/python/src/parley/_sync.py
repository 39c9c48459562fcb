"""The blocking client: it runs the asynchronous one in a background thread, and waits for its results."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import functools
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self, Unpack

import grpc

from parley._admin import Admin, Grouping
from parley._background import Caller, Core, Work, next_item
from parley._backoff import Backoff
from parley._client import Client
from parley._connection import Credential, fixed_metadata
from parley._conversations import Conversations
from parley._fields import RequestFields
from parley._stream import ReplyStream
from parley.events import Accepted, Event, Finished, ToolCall
from parley.v1 import admin_pb2, chat_pb2, conversations_pb2, resources_pb2


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


class SyncReplyStream:
    """An iterator over the events of one reply, which reconnects after cuts, and a context manager. See `ReplyStream`.

    It reads from the network only while a thread waits for an event. Threads that read it at the same time have the
    events in turn. `break`, the end of the `with` block and `close` end the call at once; the request's `on_disconnect`
    decides whether the reply continues. Any thread may call `close` and `cancel`. After a Ctrl-C or another exception
    in a waiting thread no event is lost: read on.
    """

    def __init__(self, caller: Caller, stream: ReplyStream) -> None:
        self._caller = caller
        self._inner = stream
        self._reading = threading.Lock()
        self._work: Work[Event | None] | None = None
        self._is_open = False

    @property
    def request_id(self) -> str:
        """See `ReplyStream.request_id`."""
        return self._inner.request_id

    @property
    def reply_id(self) -> str:
        """See `ReplyStream.reply_id`."""
        return self._inner.reply_id

    @property
    def conversation_id(self) -> str:
        """See `ReplyStream.conversation_id`."""
        return self._inner.conversation_id

    @property
    def message_id(self) -> str:
        """See `ReplyStream.message_id`."""
        return self._inner.message_id

    @property
    def accepted(self) -> Accepted | None:
        """See `ReplyStream.accepted`."""
        return self._inner.accepted

    @property
    def sequence(self) -> int:
        """See `ReplyStream.sequence`."""
        return self._inner.sequence

    @property
    def text(self) -> str:
        """See `ReplyStream.text`."""
        return self._inner.text

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """See `ReplyStream.tool_calls`."""
        return self._inner.tool_calls

    @property
    def finished(self) -> Finished | None:
        """See `ReplyStream.finished`."""
        return self._inner.finished

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        event = self.read()
        if event is None:
            raise StopIteration
        return event

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, timeout_s: float | None = None) -> Event | None:
        """Returns the next event, or None after the last one.

        Raises TimeoutError after `timeout_s`, like `asyncio.timeout` around the asynchronous stream: the call ends, and
        the next read continues without loss. While another thread waits for an event, its call continues.
        """
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        if not self._reading.acquire(timeout=-1 if timeout_s is None else max(0.0, timeout_s)):
            raise _no_event(timeout_s)
        try:
            while True:
                work = self._started()
                in_time = self._wait(work, None if until_s is None else until_s - time.monotonic())
                self._work = None
                if not in_time:
                    raise _no_event(timeout_s)
                if work.is_cancelled:  # an earlier read was interrupted
                    continue
                event = work.outcome()
                self._is_open = event is not None
                return event
        finally:
            self._reading.release()

    def close(self) -> None:
        """Ends the call, not the reply. A waiting thread then gets the end of the stream. See `ReplyStream.aclose`."""
        background = self._caller.core.background
        if not background.is_inherited:
            background.run(self._inner.aclose())
        self._is_open = False

    def cancel(self, reason: str = "") -> resources_pb2.Reply | None:
        """Cancels the reply on the server. See `ReplyStream.cancel`."""
        return self._caller.run(self._inner.cancel(reason))

    def __del__(self) -> None:
        # Ends the call after a `break`, which calls no other method.
        if self._is_open:
            self._caller.core.background.part(self._inner.aclose)

    def _started(self) -> Work[Event | None]:
        """The read that is in progress, or a new one."""
        if self._work is None:
            self._work = Work(next_item(self._inner))
        if not self._work.is_started:
            self._is_open = True
            try:
                self._caller.core.background.start(self._work)
            except Exception:
                self._work = None
                raise
        return self._work

    def _wait(self, work: Work[Event | None], timeout_s: float | None) -> bool:
        """Waits until the read is over. After `timeout_s` it is cancelled; False if this left no event."""
        background = self._caller.core.background
        try:
            if work.wait(timeout_s):
                return True
        except BaseException:
            background.cancel(work)  # it may have an event nevertheless: the next read takes it
            raise
        background.cancel(work)
        work.wait()
        return not work.is_cancelled


class SyncConversations:
    """Stores the dialogues of replies. See `Conversations`."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._run = caller.run

    @property
    def _inner(self) -> Conversations:
        return self._caller.client.conversations

    def create(
        self,
        conversation: resources_pb2.Conversation | None = None,
        *,
        messages: Iterable[resources_pb2.Message] = (),
        request_id: str | None = None,
    ) -> resources_pb2.Conversation:
        """Creates a conversation. See `Conversations.create`."""
        return self._run(self._inner.create(conversation, messages=messages, request_id=request_id))

    def get(self, conversation_id: str) -> resources_pb2.Conversation:
        """Returns a conversation. See `Conversations.get`."""
        return self._run(self._inner.get(conversation_id))

    def list(
        self, *, page_size: int = 0, query: str = "", labels: Mapping[str, str] | None = None
    ) -> Iterator[resources_pb2.Conversation]:
        """Returns the matching conversations. See `Conversations.list`."""
        return self._caller.iterate(self._inner.list(page_size=page_size, query=query, labels=labels))

    def pages(
        self, *, page_size: int = 0, page_token: str = "", query: str = "", labels: Mapping[str, str] | None = None
    ) -> Iterator[conversations_pb2.ListConversationsResponse]:
        """Returns the same conversations page by page. See `Conversations.pages`."""
        pages = self._inner.pages(page_size=page_size, page_token=page_token, query=query, labels=labels)
        return self._caller.iterate(pages)

    def update(
        self, conversation: resources_pb2.Conversation, *, fields: Iterable[str] = ()
    ) -> resources_pb2.Conversation:
        """Changes fields of a conversation. See `Conversations.update`."""
        return self._run(self._inner.update(conversation, fields=fields))

    def delete(self, conversation_id: str, *, etag: str = "") -> None:
        """Deletes a conversation. See `Conversations.delete`."""
        self._run(self._inner.delete(conversation_id, etag=etag))

    def messages(
        self, conversation_id: str, *, page_size: int = 0, leaf_message_id: str = "", all_branches: bool = False
    ) -> Iterator[resources_pb2.Message]:
        """Returns the messages of a branch, newest first. See `Conversations.messages`."""
        messages = self._inner.messages(
            conversation_id, page_size=page_size, leaf_message_id=leaf_message_id, all_branches=all_branches
        )
        return self._caller.iterate(messages)

    def message_pages(
        self,
        conversation_id: str,
        *,
        page_size: int = 0,
        page_token: str = "",
        leaf_message_id: str = "",
        all_branches: bool = False,
    ) -> Iterator[conversations_pb2.ListMessagesResponse]:
        """Returns the same messages page by page, with their replies. See `Conversations.message_pages`."""
        pages = self._inner.message_pages(
            conversation_id,
            page_size=page_size,
            page_token=page_token,
            leaf_message_id=leaf_message_id,
            all_branches=all_branches,
        )
        return self._caller.iterate(pages)

    def image(self, image_id: str) -> resources_pb2.Image:
        """Returns an image with its bytes. See `Conversations.image`."""
        return self._run(self._inner.image(image_id))


class SyncAdmin:
    """Provider keys, usage and status, for operators. See `Admin`."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._run = caller.run

    @property
    def _inner(self) -> Admin:
        return self._caller.client.admin

    def set_provider_key(
        self, provider: str, api_key: str, *, tenant: str = "", verify: bool = False
    ) -> admin_pb2.ProviderKey:
        """Stores the key of a provider, encrypted. See `Admin.set_provider_key`."""
        return self._run(self._inner.set_provider_key(provider, api_key, tenant=tenant, verify=verify))

    def provider_keys(self, *, page_size: int = 0) -> Iterator[admin_pb2.ProviderKey]:
        """Returns all stored keys, each with its last characters only. See `Admin.provider_keys`."""
        return self._caller.iterate(self._inner.provider_keys(page_size=page_size))

    def delete_provider_key(self, provider: str, *, tenant: str = "") -> None:
        """Deletes the key of a provider. See `Admin.delete_provider_key`."""
        self._run(self._inner.delete_provider_key(provider, tenant=tenant))

    def usage(
        self,
        *,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        group_by: Iterable[Grouping] = (),
        tenant: str = "",
        end_user: str = "",
        model: str = "",
        page_size: int = 0,
    ) -> Iterator[admin_pb2.UsageRow]:
        """Returns sums of tokens, cost and outcomes, one row for each group. See `Admin.usage`."""
        rows = self._inner.usage(
            start_time=start_time,
            end_time=end_time,
            group_by=group_by,
            tenant=tenant,
            end_user=end_user,
            model=model,
            page_size=page_size,
        )
        return self._caller.iterate(rows)

    def status(self) -> admin_pb2.GetStatusResponse:
        """Returns the state of the replica that answers, and of all replicas. See `Admin.status`."""
        return self._run(self._inner.status())


def _no_event(timeout_s: float | None) -> TimeoutError:
    return TimeoutError(f"no event within {timeout_s:g} s")


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
