"""A grpc.aio server that takes many calls of a busy method at a time.

grpc.aio takes one call of each method at a time, in five turns of the event loop: a process whose turns take 10 ms lets
20 callers a second in, be it to refuse them, while the others wait unseen in gRPC's own queue. Nothing but that is
different here (docs/adr/0007). It uses what grpc.aio keeps to itself, so it is for the releases that were tested with
it; for any other `server` gives the plain one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, cast

import grpc
from grpc._cython import cygrpc
from grpc.aio import _server as aio

log = logging.getLogger("parley.server")

ACCEPTORS = 64
AGAIN_S = 1.0
TESTED = ("1.85.",)
"""Beginnings of the versions of grpcio whose insides are known."""


def server(options: Iterable[tuple[str, int]], *, busy: Iterable[str]) -> grpc.aio.Server:
    """A server that takes calls of the `busy` methods (by their full names) as fast as the event loop allows."""
    options = tuple(options)
    if not supported():
        log.warning("accepts_one_at_a_time", extra={"fields": {"grpc": grpc.__version__}})
        return grpc.aio.server(options=options)
    wide: grpc.aio.Server = cast(Any, _Server(options, frozenset(busy)))
    return wide


def supported() -> bool:
    """Whether this release of grpcio is one of those that were tested."""
    return grpc.__version__.startswith(TESTED)


class _Accepting(cygrpc.AioServer):  # type: ignore[misc] # Cython has no types
    """Takes the calls of busy methods in tasks of its own; gRPC's loop waits for them in vain."""

    def __init__(self, loop: asyncio.AbstractEventLoop, options: Any, busy: frozenset[str]) -> None:
        super().__init__(loop, None, (), (), options, None)
        self._event_loop = loop
        self._busy = {method.encode() for method in busy}
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._resolver: Any = None
        self._tasks: set[asyncio.Task[None]] = set()

    def add_registered_method_handlers(self, handlers: dict[str, grpc.RpcMethodHandler[Any, Any]]) -> None:
        super().add_registered_method_handlers(handlers)
        self._handlers.update(handlers)

    def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[Any]:
        if method not in self._busy:
            future: asyncio.Future[Any] = super()._make_request_call_future(method)
            return future
        self._resolver = self._resolver or cygrpc._MethodResolver([], self._handlers)  # noqa: SLF001 - see above
        for _ in range(ACCEPTORS):
            self._keep(self._accept(method))
        return self._event_loop.create_future()

    async def _accept(self, method: bytes) -> None:
        """Until the server shuts down, which fails the request for a call."""
        name, loop = method.decode(), self._event_loop
        while True:
            try:
                call = await self._request_registered_call(method)
            except cygrpc._RequestCallError:  # noqa: SLF001
                if self.is_running():
                    continue
                return
            except Exception:  # a defect that ended this task would leave callers without any answer
                log.exception("accept_defect")
                await asyncio.sleep(AGAIN_S)
                continue
            handling = cygrpc._handle_rpc(name, self._resolver, (), call, loop, False)  # noqa: SLF001
            self._keep(cygrpc._schedule_rpc_coro(handling, call, loop, name))  # noqa: SLF001

    def _keep(self, work: Any) -> None:
        task = self._event_loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Server(aio.Server):
    """`grpc.aio.Server` around another core."""

    def __init__(self, options: Any, busy: frozenset[str]) -> None:
        self._loop = cygrpc.get_working_loop()
        self._server = _Accepting(self._loop, aio._augment_channel_arguments(options, None), busy)  # noqa: SLF001
