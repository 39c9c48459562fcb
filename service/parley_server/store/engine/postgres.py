"""The engine on PostgreSQL 14 or newer: a pool of asyncpg connections in the event loop.

Statements are prepared once per connection. A pooler in between (pgbouncer) must therefore keep each connection on one
server connection (session pooling).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import aclosing, suppress
from contextvars import ContextVar
from typing import Any, TypeVar, cast
from weakref import WeakSet

import asyncpg
from sqlalchemy import URL, Connection, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import QueuePool

from parley_server.errors import ParleyError, StorageUnavailable
from parley_server.store.engine.database import ask
from parley_server.store.engine.driver_errors import gives_up, is_lost, is_undone, translate

logger = logging.getLogger("parley.store")

# A transaction takes a few milliseconds, so that few connections serve thousands of replies. All replicas together must
# stay below the server's `max_connections`.
POOL_SIZE = 8
STATEMENT_S = 5.0
CONNECT_S = 3.0
POOL_WAIT_S = 5.0
"""Limit of waiting for a connection of the pool, including the time to open it. A server that does not answer is
reported after this time or after `STATEMENT_S`."""
URGENT_S = 2.0
"""Each of the three limits above, for the connection that is reserved for leases and health checks."""
IDLE_IN_TRANSACTION_S = 10
"""After this time the server ends an idle transaction, which frees the locks of a process that hangs."""
CLOSE_S = 2.0
TRIES = 3

T = TypeVar("T")

_made: ContextVar[list[asyncpg.Connection]] = ContextVar("_made")
"""The connections opened by the current task's `_connect`."""


class PostgresDatabase:
    """Runs units of work concurrently. Writes are READ COMMITTED; reads with `one_state` are REPEATABLE READ; other
    reads run in autocommit. `durable` has no effect: the server's `synchronous_commit` decides.

    A unit is run up to three times if the server rolled it back (a deadlock) or its connection broke before COMMIT.
    After an outage the first call opens new connections.
    """

    def __init__(self, url: URL, *, name: str = "parley") -> None:
        """`name` is the connections' `application_name`, visible in `pg_stat_activity`."""
        self._pool = open_engine(
            url, name=name, size=POOL_SIZE, statement_s=STATEMENT_S, connect_s=CONNECT_S, wait_s=POOL_WAIT_S
        )
        # A renewal that waits behind other calls could come too late, and a healthy replica would lose its lease.
        self._lane = open_engine(url, name=name, size=1, statement_s=URGENT_S, connect_s=URGENT_S, wait_s=URGENT_S)
        self._one_state = self._pool.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._single = self._pool.execution_options(isolation_level="AUTOCOMMIT")
        self._connections: WeakSet[Any] = WeakSet()
        for engine in (self._pool, self._lane):
            event.listen(engine.sync_engine, "connect", self._connected)
        self._units: set[asyncio.Task[Any]] = set()
        self._open = False

    def start(self) -> None:
        """Accept calls. Connections are opened on demand."""
        self._open = True

    async def read(self, work: Callable[[Connection], T], *, one_state: bool = True) -> T:
        return await self._own(_run(self._one_state if one_state else self._single, work, commit=False))

    async def write(
        self,
        work: Callable[[Connection], T],
        *,
        durable: bool = True,  # noqa: ARG002 - the server decides
    ) -> T:
        return await self._own(_run(self._pool, work))

    async def urgent(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on a reserved connection with short limits."""
        return await self._own(_run(self._lane, work))

    async def ping(self) -> None:
        await self._own(_run(self._lane, ask, commit=False))

    async def close(self) -> None:
        self._open = False
        if self._units:
            await asyncio.wait(self._units)
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._pool.dispose()
                await self._lane.dispose()
        for connection in self._connections:
            connection.terminate()  # no effect on a connection that `dispose` has closed
        await asyncio.sleep(0)  # the event loop closes a terminated socket in its next iteration

    async def _own(self, unit: Coroutine[Any, Any, T]) -> T:
        """Run the unit in its own task, so that cancelling the caller does not cancel it."""
        if not self._open:
            unit.close()
            raise StorageUnavailable("the database is closed")
        task = asyncio.get_running_loop().create_task(unit, name="store-unit")
        self._units.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _connected(self, connection: Any, _: object) -> None:
        self._connections.add(connection.driver_connection)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._units.discard(task)
        if not task.cancelled():
            task.exception()  # marks it as retrieved: a cancelled caller will not retrieve it


def open_engine(url: URL, *, name: str, size: int, statement_s: float, connect_s: float, wait_s: float) -> AsyncEngine:
    """A pool of at most `size` connections. A connection that is known to be lost is never handed out.

    The server ends a statement after `statement_s`; if no answer comes, the driver does so half a second later.
    Sequential scans are off because every statement has an index, and stale statistics could make the planner ignore
    it."""
    engine = create_async_engine(
        url,
        pool_size=size,
        max_overflow=0,
        pool_timeout=wait_s,
        connect_args={
            "async_creator_fn": _make,
            "timeout": connect_s,
            "command_timeout": statement_s + 0.5,
            "server_settings": {
                "application_name": name,
                "default_transaction_isolation": "read committed",
                "enable_seqscan": "off",
                "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_S}s",
                "jit": "off",  # to compile these short statements takes longer than to run them
                "statement_timeout": f"{statement_s * 1000:.0f}",
            },
        },
    )
    event.listen(engine.sync_engine, "checkout", _refuse_lost)
    event.listen(engine.sync_engine, "handle_error", _give_up_lost)
    return engine


async def _run(
    engine: AsyncEngine,
    work: Callable[[Connection], T],
    *,
    commit: bool = True,
) -> T:
    tries = 0
    while True:
        tries += 1
        connected = committing = False
        try:
            async with aclosing(await _connect(engine)) as connection:
                connected = True
                result = await connection.run_sync(work)
                if commit:
                    committing = True
                    await connection.commit()
                return result
        except ParleyError:
            raise  # a refusal, raised before the first write
        except Exception as error:
            # A connection that broke before COMMIT leaves nothing behind, so the unit may run again. After COMMIT was
            # sent, it may have been executed: the caller must read back what happened.
            undone = is_undone(error)
            if tries < TRIES and (undone or (connected and not committing and is_lost(error))):
                logger.info(
                    "transaction_retried", extra={"fields": {"problem": str(getattr(error, "orig", error))[:200]}}
                )
                continue
            translated = translate(error, outcome_unknown=committing and not undone)
            if translated is error:
                raise
            raise translated from error


async def _connect(engine: AsyncEngine) -> AsyncConnection:
    """Take a connection from the pool, or open one, within the pool's wait limit.

    Raises TimeoutError; a connection that was being opened is closed by then. At the limit, a connection past its
    handshake is terminated instead of cancelled: on cancellation asyncpg opens a second connection to cancel the query,
    and waits for that."""
    connection = engine.connect()
    made: list[asyncpg.Connection] = []
    token = _made.set(made)
    late = False

    def end_wait() -> None:
        nonlocal late
        late = True
        for each in made:
            each.terminate()
        if not made:
            cancellation.reschedule(loop.time())

    loop = asyncio.get_running_loop()
    timer = loop.call_later(cast("QueuePool", engine.pool).timeout(), end_wait)
    try:
        async with asyncio.timeout(None) as cancellation:  # `end_wait` sets the limit
            await connection.start()
    except Exception as error:
        if late:
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()
        _made.reset(token)
    return connection


async def _make(*arguments: Any, **options: Any) -> asyncpg.Connection:
    """Open a connection and record it for `_connect`, which terminates it at its limit."""
    connection = await asyncpg.connect(*arguments, **options)
    if (made := _made.get(None)) is not None:
        made.append(connection)
    return connection


def _refuse_lost(connection: Any, *_: object) -> None:
    """Discard a closed connection at checkout. The driver's flag is free to read; a ping would cost three round
    trips."""
    if connection.driver_connection.is_closed():
        raise InvalidatePoolError


def _give_up_lost(context: ExceptionContext) -> None:
    """Terminate an unusable connection at once, since an orderly close would wait for the server again. Also invalidate
    the pool's older connections, which are probably lost too."""
    if not gives_up(context.original_exception):
        return
    context.is_disconnect = context.invalidate_pool_on_disconnect = True
    connection = context.connection
    if connection is not None and not connection.invalidated:
        driver_connection: Any = connection.connection.driver_connection
        driver_connection.terminate()
