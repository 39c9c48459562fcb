"""PostgreSQL 14 or newer behind a pool of connections of the event loop. Nothing here knows what the work is.

A connection is the process's own for as long as it lives: a pooler between (pgbouncer) must not hand its transactions
to several servers, since statements are prepared once per connection.
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

POOL_SIZE = 8
STATEMENT_S = 5.0
CONNECT_S = 3.0
POOL_WAIT_S = 5.0
"""For one of the pool's connections, while others have them all, and to make it where there is none: a server that
gives no answer is told within this, or within the limit of a statement."""
URGENT_S = 2.0
"""For each of the three, on the connection that is kept for leases and health."""
IDLE_IN_TRANSACTION_S = 10
"""After this long the server frees what a process that stands still has locked."""
CLOSE_S = 2.0
TRIES = 3

T = TypeVar("T")

_made: ContextVar[list[asyncpg.Connection]] = ContextVar("_made")
"""The connections that the task's `_connect` has made."""


class PostgresDatabase:
    """Runs units of work side by side: writes READ COMMITTED, reads that need one state REPEATABLE READ, single ones
    on their own. Every commit is as durable as the server makes it.

    A unit that the server has undone (a deadlock), or whose connection was lost before its COMMIT, is run again, three
    times in all. After an outage the first call finds new connections by itself.
    """

    def __init__(self, url: URL, *, name: str = "parley") -> None:
        """`name` is what the server shows of its connections."""
        self._pool = open_engine(
            url, name=name, size=POOL_SIZE, statement_s=STATEMENT_S, connect_s=CONNECT_S, wait_s=POOL_WAIT_S
        )
        self._lane = open_engine(url, name=name, size=1, statement_s=URGENT_S, connect_s=URGENT_S, wait_s=URGENT_S)
        self._one_state = self._pool.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._single = self._pool.execution_options(isolation_level="AUTOCOMMIT")
        self._connections: WeakSet[Any] = WeakSet()
        for engine in (self._pool, self._lane):
            event.listen(engine.sync_engine, "connect", self._connected)
        self._units: set[asyncio.Task[Any]] = set()
        self._open = False

    def start(self) -> None:
        """Be ready; connections are made as they are needed."""
        self._open = True

    async def read(self, work: Callable[[Connection], T], *, one_state: bool = True) -> T:
        """See `Database`."""
        return await self._own(_run(self._one_state if one_state else self._single, work, commit=False))

    async def write(
        self,
        work: Callable[[Connection], T],
        *,
        durable: bool,  # noqa: ARG002 - a server that loses commits is one that was told to
        prepared: Callable[[T], None] | None = None,
    ) -> T:
        """See `Database`."""
        return await self._own(_run(self._pool, work, prepared=prepared))

    async def urgent(self, work: Callable[[Connection], T]) -> T:
        """See `Database`. It has a connection of its own, with short limits."""
        return await self._own(_run(self._lane, work))

    async def ping(self) -> None:
        """See `Database`."""
        await self._own(_run(self._lane, ask, commit=False))

    async def close(self) -> None:
        """See `Database`."""
        self._open = False
        if self._units:
            await asyncio.wait(self._units)
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._pool.dispose()
                await self._lane.dispose()
        for connection in self._connections:
            connection.terminate()  # harmless where the server has heard the goodbye
        await asyncio.sleep(0)  # the event loop closes a socket one turn after it was told to

    async def _own(self, unit: Coroutine[Any, Any, T]) -> T:
        """Run it in a task of the database's own, which a caller that is cancelled leaves alone."""
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
            task.exception()  # a caller that was cancelled does not ask for it


def open_engine(url: URL, *, name: str, size: int, statement_s: float, connect_s: float, wait_s: float) -> AsyncEngine:
    """A pool of at most `size` connections, which are never handed out once they are known to be lost.

    The server ends a statement at its limit; where no answer comes at all, the driver does half a second later. Every
    statement has an index to find its rows by, from which statistics of another day must not lead the planner away."""
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
                "jit": "off",
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
    prepared: Callable[[T], None] | None = None,
) -> T:
    tries = 0
    while True:
        tries += 1
        connected = committing = False
        try:
            async with aclosing(await _connect(engine)) as connection:
                connected = True
                result = await connection.run_sync(work)
                if prepared is not None:
                    prepared(result)
                if commit:
                    committing = True
                    await connection.commit()
                return result
        except ParleyError:
            raise  # a refusal: nothing was written
        except Exception as error:
            undone = is_undone(error)
            if tries < TRIES and (undone or (connected and not committing and is_lost(error))):
                logger.info(
                    "transaction_again", extra={"fields": {"problem": str(getattr(error, "orig", error))[:200]}}
                )
                continue
            told = translate(error, outcome_unknown=committing and not undone)
            if told is error:
                raise
            raise told from error


async def _connect(engine: AsyncEngine) -> AsyncConnection:
    """One of the pool's connections, waited for and, if need be, made within the limit of the wait alone.

    Raises TimeoutError; by then a connection that was being made is closed.

    A connection that has passed the handshake is terminated, which fails what it waits for at once. A cancellation
    would make the driver ask the server to cancel the query, by another connection, and wait for the answer."""
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
        async with asyncio.timeout(None) as cancellation:
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
    """A connection, which `_connect` can terminate where it is what wants it."""
    connection = await asyncpg.connect(*arguments, **options)
    if (made := _made.get(None)) is not None:
        made.append(connection)
    return connection


def _refuse_lost(connection: Any, *_: object) -> None:
    """The driver knows when a server has hung up; asking it costs nothing, and a ping three trips to the server."""
    if connection.driver_connection.is_closed():
        raise InvalidatePoolError


def _give_up_lost(context: ExceptionContext) -> None:
    """Drop a connection that gives no answer, or will not be of use, at once: a polite goodbye would wait again. Those
    that were made before are no better."""
    if not gives_up(context.original_exception):
        return
    context.is_disconnect = context.invalidate_pool_on_disconnect = True
    connection = context.connection
    if connection is not None and not connection.invalidated:
        driver_connection: Any = connection.connection.driver_connection
        driver_connection.terminate()
