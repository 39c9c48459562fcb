"""The parts that the core's services share, and the tasks that belong to the process and not to a call."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from parley_server.core.cluster.remote_replies import RemoteReplies
from parley_server.core.lease import FOR_EVER, Lease
from parley_server.core.limits import Capacity, Limits
from parley_server.core.model import Model
from parley_server.core.observer import LoopLoad, Observer
from parley_server.core.ports import Clock, Provider, Relay, Store
from parley_server.core.replies.live import LiveReplies
from parley_server.core.replies.sink import FlushWindow

T = TypeVar("T")


class Catalog(Protocol):
    """The models that a request may name."""

    def resolve(self, alias: str) -> tuple[Model, Provider]:
        """The model of an alias (empty: the default) and the provider that serves it. Raises `ModelNotFound`."""

    def models(self) -> list[Model]:
        """All of them, the default first."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What every service of the core works with. `replica_id` is empty where this process is the only one; `ending`
    holds the replies that this replica ends in the place of a dead one."""

    store: Store
    relay: Relay
    catalog: Catalog
    clock: Clock
    observer: Observer
    load: LoopLoad
    limits: Limits
    live_replies: LiveReplies
    capacity: Capacity
    remote_replies: RemoteReplies
    replica_id: str = ""
    lease: Lease = FOR_EVER
    ending: set[str] = field(default_factory=set)
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    window: FlushWindow = field(init=False)

    def __post_init__(self) -> None:
        """Frozen from here on."""
        object.__setattr__(self, "window", FlushWindow(self.clock, utilisation=lambda: self.load.utilisation))

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Run `work` in a task that the process owns; a call that is cancelled does not end it."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self.tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever awaits it gets it; a caller that is gone must not make the loop complain


async def done_within(task: asyncio.Task[Any], limit_s: float, clock: Clock) -> bool:
    """Whether `task` is over within this time; it is left as it is."""
    over = asyncio.Event()
    task.add_done_callback(lambda _: over.set())
    limit = clock.call_at(clock.monotonic() + limit_s, over.set)
    try:
        await over.wait()
    finally:
        limit.cancel()
    return task.done()


async def unbroken(work: asyncio.Task[T]) -> T:
    """The result of `work`, which goes on however often the waiting task is cancelled; a cancel is raised after it."""
    cancelled = False
    while not work.done():
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            cancelled = True
        except Exception:  # noqa: BLE001 - the result below raises it, after a cancel has had its turn
            break
    if cancelled:
        raise asyncio.CancelledError
    return work.result()
