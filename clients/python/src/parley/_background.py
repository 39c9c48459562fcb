"""An event loop in a background thread, where the asynchronous client works for blocking callers.

A process has one, because grpc.aio is made for one event loop. It starts with the first call. Its thread is a daemon,
so that the interpreter can exit at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any, Generic, TypeVar, cast

from parley import _fork
from parley._client import Client
from parley.errors import Unavailable

Value = TypeVar("Value")


class Work(Generic[Value]):
    """A coroutine that runs in the background loop, and its outcome for the thread that waits for it."""

    def __init__(self, coroutine: Coroutine[Any, Any, Value]) -> None:
        self.is_started = False
        self.is_cancelled = False
        self._coroutine = coroutine
        self._task: asyncio.Task[None] | None = None
        self._over = threading.Event()
        self._value: Value | None = None
        self._error: BaseException | None = None

    def begin(self) -> None:
        """Starts it in the running loop. A repeated call does nothing."""
        if self._task is None and not self._over.is_set():
            self._task = asyncio.get_running_loop().create_task(self._run())

    def cancel(self) -> None:
        """Cancels it in the running loop."""
        if self._task is not None:
            # Later than the first step: a task that is cancelled before it never comes to the line that ends a wait.
            asyncio.get_running_loop().call_soon(self._task.cancel)

    def discard(self) -> None:
        """Ends it without a start."""
        self._coroutine.close()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Waits until it is over; False if it is not after `timeout_s`. An interrupted wait can be repeated."""
        return self._over.wait(timeout_s)

    def outcome(self) -> Value:
        """Returns its result or raises its error, after `wait`."""
        error, self._error = self._error, None  # the error's traceback refers to this object
        try:
            if error is not None:
                raise error
            return cast(Value, self._value)
        finally:
            del error

    async def _run(self) -> None:
        try:
            self._value = await self._coroutine
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            self.is_cancelled = isinstance(error, asyncio.CancelledError)
            self._error = error
        self._task = None
        self._over.set()


class Background:
    """The event loop and its thread."""

    def __init__(self) -> None:
        self._farewells: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="parley-sync", daemon=True)
        self._thread.start()

    def start(self, work: Work[Any]) -> None:
        """Starts work, with the context variables of this thread."""
        try:
            self._check()
            self._loop.call_soon_threadsafe(work.begin)
        except Exception:
            work.discard()
            raise
        work.is_started = True

    def cancel(self, work: Work[Any]) -> None:
        """Cancels work, without waiting for its end."""
        self._loop.call_soon_threadsafe(work.cancel)

    def run(self, coroutine: Coroutine[Any, Any, Value]) -> Value:
        """Runs a coroutine and returns its result. If the wait is interrupted, such as by Ctrl-C, it is cancelled."""
        work = Work(coroutine)
        self.start(work)
        try:
            work.wait()
        except BaseException:
            self.cancel(work)
            raise
        return work.outcome()

    def part(self, farewell: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Starts a coroutine without waiting, and drops it in the loop's thread. For finalisers: it takes no lock."""
        if _fork.is_forked():
            _fork.keep(farewell)
            return
        with contextlib.suppress(RuntimeError):  # the interpreter has closed the loop
            self._loop.call_soon_threadsafe(self._begin, farewell)

    def _check(self) -> None:
        _fork.check()
        if threading.current_thread() is self._thread:
            raise RuntimeError("a SyncClient cannot wait in its own background thread")

    def _begin(self, farewell: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = self._loop.create_task(farewell())
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)


class Core:
    """An asynchronous client in the background loop, made at the first call, and shared by several callers.

    A process that is forked before the first call makes its own. Without `close`, the client is closed once nothing
    refers to this object.
    """

    def __init__(self, make: Callable[[], Client]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._background: Background | None = None
        self._is_closed = False

    def client(self) -> Client:
        """Returns the client. Raises like `Background.start`."""
        if self._client is None:
            background = _of_this_process()
            with self._lock:
                self._check()
                if self._client is None:
                    self._client, self._background = background.run(self._open()), background
                    try:
                        self._check()  # another thread may have called `close` when there was no client yet
                    except Unavailable:
                        background.run(self._client.close())
                        raise
        return self._client

    @property
    def background(self) -> Background:
        """Where the client lives."""
        return self._background or _of_this_process()

    def close(self) -> None:
        """Closes the client. Does nothing in a forked process."""
        self._is_closed = True
        if self._client is not None and not _fork.is_forked():
            self.background.run(self._client.close())

    def _check(self) -> None:
        if self._is_closed:
            raise closed()

    async def _open(self) -> Client:
        return self._make()

    def __del__(self) -> None:
        # A channel is freed in its loop's thread.
        if self._client is not None and self._background is not None and not self._is_closed:
            self._background.part(self._client.close)


class Caller:
    """Runs the calls of one end user; `acting_for` returns another one over the same connection."""

    def __init__(self, core: Core, end_user: str | None = None) -> None:
        self.core = core
        self._end_user = end_user

    def acting_for(self, end_user: str) -> Caller:
        """Returns one for another end user."""
        return Caller(self.core, end_user)

    @property
    def client(self) -> Client:
        """The asynchronous client. Its coroutines and iterators are for `run` and `iterate`."""
        client = self.core.client()
        return client if self._end_user is None else client.acting_for(self._end_user)

    def run(self, coroutine: Coroutine[Any, Any, Value]) -> Value:
        """Waits for the result of a coroutine."""
        return self.core.background.run(coroutine)

    def iterate(self, items: AsyncIterator[Value]) -> Iterator[Value]:
        """Waits for one item after the other."""
        while (item := self.run(next_item(items))) is not None:
            yield item


def closed() -> Unavailable:
    """Returns the error of a call without a client."""
    return Unavailable("the client is closed")


async def next_item(items: AsyncIterator[Value]) -> Value | None:
    """Returns the next item, or None after the last one."""
    return await anext(items, None)


_lock = threading.Lock()
_background: Background | None = None


def _of_this_process() -> Background:
    global _background
    _fork.check()
    with _lock:
        if _background is None:
            _background = Background()
        return _background


def _after_fork() -> None:
    """Runs in the child process, which has only the thread that has called `fork`."""
    global _lock, _background
    _lock = threading.Lock()  # another thread of the parent may have held it
    if _background is not None:
        _fork.keep(_background)  # its thread and its loop are the parent's
        _background = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
