"""Several `parley serve` processes on one PostgreSQL and one Redis, as operators run them, with their faults.

Queries run in the event loop of the test, because the proxies in front of the database run in it too.
"""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import parley
from parley.v1 import chat_pb2_grpc
from parley_server.store.migrate import migrate

from tests import watchdog
from tests.integration.process.watching import Watcher
from tests.integration.served import CONFIG, KEY, Caller
from tests.ports import free_port
from tests.processes import CHANNEL_OPTIONS, ServerProcess, until
from tests.services import PostgresServer, RedisServer
from tests.upstream import Upstream

LIMIT_S = 30.0
RETRY_S = 0.05
TERMINAL = ("COMPLETED", "CANCELLED", "FAILED")
QUICK = parley.Backoff(first_s=0.05, max_s=0.5)
_STORED = """
SELECT r.state, r.epoch, r.owner, r.last_sequence, r.finish_reason, r.error, r.cancel_requested,
       coalesce((SELECT m.parts FROM message m WHERE m.reply_id = r.id), '[]'),
       (SELECT count(*) FROM message m WHERE m.reply_id = r.id),
       (SELECT count(*) FROM usage u WHERE u.reply_id = r.id),
       (SELECT count(*) FROM checkpoint c WHERE c.reply_id = r.id)
FROM reply r WHERE r.id = $1
"""

_one_at_a_time = threading.Lock()


def _migrate(url: str) -> None:
    """Alembic keeps its state in globals, so that only one migration can run in a process."""
    with _one_at_a_time:
        migrate(url)


@dataclass(frozen=True)
class Stored:
    """The stored state of one reply. `error` is the name of its reason, `owner` the id of a replica process."""

    state: str
    epoch: int
    owner: str
    last_sequence: int
    finish_reason: str | None
    error: str | None
    cancel_requested: str | None
    text: str
    messages: int
    usages: int
    checkpoints: int

    @property
    def ended(self) -> bool:
        """Whether its state is terminal."""
        return self.state in TERMINAL


class Cluster:
    """`replicas` servers on a new database of `postgres`, and on `redis`; entered, all of them serve. Use `async with`.

    They are numbered from 0; `cluster[i]` is the process. `lease_s` also sets the intervals of the sweeper and of the
    relay's heartbeat, in the proportion of their defaults. `postgres_ports` and `redis_ports` are ports of proxies, by
    replica; `server` has further settings of [server], `toml` further tables, `environment` further variables.
    Models: `test` (the default) and `plain` ask the upstream, `scripted` needs none.
    """

    def __init__(
        self,
        folder: Path,
        postgres: PostgresServer,
        redis: RedisServer,
        upstream: Upstream,
        *,
        replicas: int = 3,
        lease_s: float = 2.0,
        postgres_ports: Mapping[int, int] | None = None,
        redis_ports: Mapping[int, int] | None = None,
        server: Mapping[str, Any] | None = None,
        provider: str = "",
        toml: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.postgres = postgres
        self.redis = redis
        self.upstream = upstream
        self.database = postgres.create_database()
        self._folder = folder
        self._callers: dict[tuple[int, str], Caller] = {}
        self._incarnations: dict[str, int] = {}
        interval_s = lease_s / 4
        settings = {
            "lease_s": lease_s,
            "sweep_interval_s": interval_s,
            "relay_heartbeat_s": interval_s,
            "reconcile_interval_s": interval_s,
            "drain_pause_s": 0.2,
            **(server or {}),
        }
        lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in settings.items())
        self._toml = (
            CONFIG.format(url=upstream.url, key="env:UPSTREAM_KEY", provider=provider, models="", server=lines) + toml
        )
        self._environment = {"UPSTREAM_KEY": KEY, **(environment or {})}
        self._postgres_ports, self._redis_ports = postgres_ports or {}, redis_ports or {}
        self._replicas = [self._replica(index) for index in range(replicas)]

    def __getitem__(self, index: int) -> ServerProcess:
        return self._replicas[index]

    def __len__(self) -> int:
        return len(self._replicas)

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(_migrate, self.postgres.url(self.database))
        try:
            await asyncio.gather(*(self.start(index) for index in range(len(self))))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for caller in self._callers.values():
            await caller.channel.close()
        await asyncio.gather(*(each.kill9() for each in self._replicas if each.running))
        if self.postgres.running and watchdog.state(self.postgres.pid) != "T":
            await asyncio.to_thread(self.postgres.drop_database, self.database)

    # --- callers

    def caller(self, index: int, end_user: str = "") -> Caller:
        """Stubs and `Watch`es on one replica, the same ones for each `end_user`. It connects again after a restart."""
        key = (index, end_user)
        if key not in self._callers:
            self._callers[key] = Caller(self[index].port, end_user, options=CHANNEL_OPTIONS)
        return self._callers[key]

    def chat(self, index: int) -> chat_pb2_grpc.ChatStub:
        """The gRPC stub of one replica, for `Watcher`."""
        return self.caller(index).chat

    def client(self, *indices: int, **options: Any) -> parley.Client:
        """A client of these replicas, by default all, with round-robin balancing. The caller closes it."""
        chosen = indices or range(len(self))
        addresses = ",".join(self[index].address for index in chosen)
        turns = [("grpc.lb_policy_name", "round_robin"), ("grpc.use_local_subchannel_pool", 1)]
        return parley.Client(f"ipv4:{addresses}", options=turns, **{"backoff": QUICK, **options})

    async def follow(self, watcher: Watcher, *indices: int, limit_s: float = LIMIT_S) -> Watcher:
        """Start or resume the watcher's reply and read it to its terminal chunk. After each lost connection it resumes
        on the next of these replicas, by default of all."""
        order = list(indices or range(len(self)))
        async with asyncio.timeout(limit_s):
            while watcher.terminal is None:
                chat = self.chat(order[0])
                await (watcher.resume(chat) if watcher.reply_id else watcher.start(chat))
                if watcher.terminal is None:
                    order.append(order.pop(0))
                    await asyncio.sleep(RETRY_S)
        return watcher

    # --- faults

    async def start(self, index: int) -> None:
        """Start a stopped replica as a new process at the same address; returns once it serves."""
        await self[index].start()
        self._incarnations |= dict.fromkeys(self[index].replicas, index)

    async def kill9(self, index: int) -> None:
        """SIGKILL, also to a paused process; returns once it has ended."""
        await self[index].kill9()

    def pause(self, index: int) -> None:
        """SIGSTOP: its connections stay open and get no answers."""
        self[index].pause()

    def resume(self, index: int) -> None:
        """SIGCONT: it continues with its old state."""
        self[index].resume()

    def begin_drain(self, index: int) -> None:
        """SIGTERM."""
        self[index].send(signal.SIGTERM)

    async def drain(self, index: int) -> int:
        """SIGTERM; its exit status once it has ended."""
        return await self[index].terminate()

    async def restart(self, index: int) -> None:
        """Kill it if it runs, and start it again."""
        if self[index].running:
            await self.kill9(index)
        await self.start(index)

    # --- stored rows, counts and logs

    async def rows(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        """The rows of one statement; `$1` is the first argument."""
        return await self.postgres.query(query, *arguments, database=self.database)

    async def stored(self, reply_id: str) -> Stored | None:
        """The stored state of a reply; None if there is no row."""
        found = await self.rows(_STORED, reply_id)
        if not found:
            return None
        state, epoch, owner, sequence, reason, error, cancel, parts, *counts = found[0]
        return Stored(
            state=state,
            epoch=epoch,
            owner=owner,
            last_sequence=sequence,
            finish_reason=reason,
            error=json.loads(error)["reason"] if error else None,
            cancel_requested=cancel,
            text="".join(part["text"] for part in json.loads(parts) if part["type"] == "text"),
            messages=counts[0],
            usages=counts[1],
            checkpoints=counts[2],
        )

    async def ended(self, reply_id: str, *, limit_s: float = LIMIT_S) -> Stored:
        """The stored state of a reply after its end."""

        async def terminal() -> Stored | None:
            found = await self.stored(reply_id)
            return found if found is not None and found.ended else None

        return await until(terminal, f"{reply_id} has ended", limit_s=limit_s)

    async def owner_of(self, reply_id: str) -> int:
        """The index of the replica that the database names as the owner, also if that process has ended."""
        found = await self.stored(reply_id)
        assert found is not None, f"no reply {reply_id}"
        return self._incarnations[found.owner]

    @property
    def calls(self) -> int:
        """The number of requests to the upstream."""
        return len(self.upstream.requests)

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """The log lines of the current processes, of one event or of all, each with the `index` of its replica."""
        return [{**each, "index": index} for index in range(len(self)) for each in self[index].events(name)]

    @property
    def problems(self) -> list[dict[str, Any]]:
        """The log lines of level error."""
        return [each for each in self.events() if each["level"] == "error"]

    def _replica(self, index: int) -> ServerProcess:
        return ServerProcess(
            self._folder / f"replica{index}",
            toml=self._toml,
            rows_url=self.postgres.url(self.database),
            forked=True,
            PARLEY_DATABASE_URL=self.postgres.url(self.database, port=self._postgres_ports.get(index, 0)),
            PARLEY_REDIS_URL=self.redis.url(port=self._redis_ports.get(index, 0)),
            PARLEY_LISTEN=f"127.0.0.1:{free_port()}",
            PARLEY_METRICS_LISTEN=f"127.0.0.1:{free_port()}",
            **self._environment,
        )
