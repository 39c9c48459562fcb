"""The connection that receives published messages. Messages published while it is lost are not received later."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from redis.asyncio.connection import Connection
from redis.exceptions import RedisError

from parley_server.core.ports import Clock
from parley_server.relay.health import Health
from parley_server.relay.redis_check import Connect
from parley_server.relay.redis_pipeline import HANDSHAKE_S
from parley_server.relay.scripts import PING, command, groups

logger = logging.getLogger("parley.relay")

PING_S = 5.0
CHANNELS_PER_COMMAND = 500


class Subscription:
    """Keeps the wanted channels subscribed, and reconnects after a loss.

    `on_message` receives a channel and a message. `on_live` receives a channel whose subscription is confirmed; later
    messages arrive as long as the connection lasts. A connection that is silent for two ping intervals is closed.
    """

    def __init__(
        self,
        connect: Connect,
        name: str,
        clock: Clock,
        *,
        on_message: Callable[[bytes, bytes], None],
        on_live: Callable[[bytes], None],
    ) -> None:
        self.health = Health("subscribe", clock)
        self._connect = connect
        self._name = name
        self._clock = clock
        self._on_message = on_message
        self._on_live = on_live
        self._wanted: dict[bytes, None] = {}
        self._asked: set[bytes] = set()
        self._live: set[bytes] = set()
        self._changed = asyncio.Event()
        self._heard = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Connect and begin to receive."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="relay-subscribe")

    async def stop(self) -> None:
        """Close the connection."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def add(self, channel: bytes) -> bool:
        """Subscribe to a channel. Returns whether it is live already."""
        self._wanted[channel] = None
        self._changed.set()
        return channel in self._live

    def drop(self, channel: bytes) -> None:
        """Unsubscribe from a channel."""
        self._wanted.pop(channel, None)
        self._changed.set()

    async def _run(self) -> None:
        while True:
            connection = self._connect(self._name)
            try:
                async with asyncio.timeout(HANDSHAKE_S):
                    await connection.connect()  # type: ignore[no-untyped-call] # redis-py's own
                await self._listen(connection)
            except (RedisError, OSError, TimeoutError) as error:
                self.health.failed(str(error) or "no connection in time")
            except Exception:  # a bug must not end this task: all readers would depend on slower probes
                logger.exception("relay_task_failed")
                self.health.failed("internal error")
            finally:
                self._asked.clear()
                self._live.clear()
                await connection.disconnect(nowait=True)
            await self._clock.sleep(self.health.retry_at - self._clock.monotonic())

    async def _listen(self, connection: Connection) -> None:
        # A new connection has no subscriptions: `_talk` sends all of them.
        self._changed.set()
        others = [asyncio.create_task(work) for work in (self._talk(connection), self._watch(connection))]
        try:
            while True:
                kind, channel, *said = await connection.read_response(timeout=math.inf)  # `_watch` limits silence
                self._heard = True
                if kind == b"message":
                    self._on_message(channel, said[0])
                elif kind == b"subscribe":
                    # Only now: a server may accept the connection but refuse to subscribe.
                    self.health.worked()
                    if channel in self._asked:  # otherwise it was dropped before this confirmation
                        self._live.add(channel)
                        self._on_live(channel)
        finally:
            for other in others:
                other.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    async def _talk(self, connection: Connection) -> None:
        """Send subscriptions as they change. Errors of the connection appear in the reading loop."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self._send_changes(connection)

    async def _watch(self, connection: Connection) -> None:
        """Ping a silent connection, and close it if no answer comes."""
        while True:
            self._heard = False
            await asyncio.sleep(PING_S)
            if self._heard:
                continue
            await _send(connection, [PING])
            await asyncio.sleep(PING_S)
            if not self._heard:
                await connection.disconnect(nowait=True)
                return

    async def _send_changes(self, connection: Connection) -> None:
        gone = [channel for channel in self._asked if channel not in self._wanted]
        new = [channel for channel in self._wanted if channel not in self._asked]
        self._asked.difference_update(gone)
        self._live.difference_update(gone)
        self._asked.update(new)
        changes = (("UNSUBSCRIBE", gone), ("SUBSCRIBE", new))
        commands = [
            command(verb, *some) for verb, channels in changes for some in groups(channels, CHANNELS_PER_COMMAND)
        ]
        if commands:
            await _send(connection, commands)


async def _send(connection: Connection, commands: list[bytes]) -> None:
    if connection.is_connected:  # otherwise redis-py would connect again, unnoticed by the reading loop
        await connection.send_packed_command(commands, check_health=False)
