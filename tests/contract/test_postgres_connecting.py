"""A wait for a PostgreSQL connection that times out leaves no connection and no task behind."""

from __future__ import annotations

import asyncio
import gc
from asyncio.selector_events import _SelectorTransport
from itertools import count

from parley_server.store.engine.postgres import _connect, open_engine
from sqlalchemy import make_url

from tests.proxy import Proxy, _DelayQueue

WAIT_S = 1.0
FAR_S = 60.0
"""A limit that is never reached, so that only the wait's limit applies."""
LIMIT_S = 30.0
AT_ONCE = 8


class Stalling(Proxy):
    """A proxy that stalls after it has forwarded a given number of chunks to the client."""

    def __init__(self, target_port: int, pieces: int) -> None:
        super().__init__(target_port)
        self._left = pieces

    async def flow(self) -> None:
        """Forward without a limit from now on."""
        self._left = -1
        await self.restore()

    async def _deliver(self, line: _DelayQueue, writer: asyncio.StreamWriter, counter: str) -> None:
        if counter == "to_client":
            get = line.get

            async def counted() -> tuple[float, bytes]:
                piece = await get()
                if not self._left:
                    self.stall()
                self._left -= 1
                return piece

            line.get = counted
        await super()._deliver(line, writer, counter)


def open_sockets(port: int) -> list[str]:
    """This process's transports that are connected to a loopback port."""
    transports = [each for each in gc.get_objects() if isinstance(each, _SelectorTransport)]
    return [
        repr(each)
        for each in transports
        if each._sock is not None and (each.get_extra_info("peername") or ("", 0))[1] == port
    ]


async def connects(server_port: int, url: str, pieces: int) -> bool:
    """Whether a connection is opened to a server that stops answering after a given number of chunks."""
    async with Stalling(server_port, pieces) as proxy:
        to_proxy = make_url(url).set(port=proxy.port)
        engine = open_engine(to_proxy, name="tests", size=1, statement_s=FAR_S, connect_s=FAR_S, wait_s=WAIT_S)
        try:
            async with asyncio.timeout(LIMIT_S) as limit:
                connection = await _connect(engine)
        except TimeoutError:
            assert not limit.expired(), f"the wait went on, after {pieces} pieces"
            await asyncio.sleep(0)  # the loop closes a transport's socket in its next iteration
            assert open_sockets(proxy.port) == [], pieces
            assert proxy.accepted == 1, f"the driver opened another one to cancel a query, after {pieces} pieces"
            assert engine.pool.checkedout() == 0
            return False
        await proxy.flow()
        await connection.close()
        await engine.dispose()
        return True


def tasks_of_the_driver() -> list[str]:
    return [repr(each) for each in asyncio.all_tasks() if "asyncpg" in repr(each)]


async def test_a_timeout_at_any_point_of_the_handshake_leaves_no_connection_or_task(shared_postgres) -> None:
    url = shared_postgres.url()
    for first in count(0, AT_ONCE):
        stages = [connects(shared_postgres.port, url, pieces) for pieces in range(first, first + AT_ONCE)]
        outcomes = await asyncio.gather(*stages)
        assert tasks_of_the_driver() == []
        if all(outcomes):
            break
    assert first >= AT_ONCE, "the handshake and the driver's set-up take more than one piece"
