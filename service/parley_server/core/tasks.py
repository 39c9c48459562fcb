"""Tasks that belong to the process and not to a call, and ways to wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from parley_server.core.ports import Clock

T = TypeVar("T")


class Tasks:
    """Starts tasks and keeps them referenced; `running` holds those that are not done."""

    def __init__(self) -> None:
        self.running: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run `work` in a task of the process. Cancelling the call that started it does not end it."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self.running.add(task)
        task.add_done_callback(self._forget)
        return task

    async def wait(self, limit_s: float) -> None:
        """Return when all are done, or after `limit_s`."""
        if self.running:
            await asyncio.wait(self.running, timeout=limit_s)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self.running.discard(task)
        if not task.cancelled():
            task.exception()  # mark it as retrieved: asyncio logs an error if no caller is left to await the task


async def done_within(task: asyncio.Task[Any], limit_s: float, clock: Clock) -> bool:
    """Whether `task` is done within this time. It is not cancelled."""
    over = asyncio.Event()
    task.add_done_callback(lambda _: over.set())
    limit = clock.call_at(clock.monotonic() + limit_s, over.set)
    try:
        await over.wait()
    finally:
        limit.cancel()
    return task.done()


async def unbroken(work: asyncio.Task[T]) -> T:
    """The result of `work`, which continues even if the waiting task is cancelled; the cancel is raised after it."""
    cancelled = False
    while not work.done():
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            cancelled = True
        except Exception:  # noqa: BLE001 - `result` below raises it, unless a cancel takes precedence
            break
    if cancelled:
        raise asyncio.CancelledError
    return work.result()
