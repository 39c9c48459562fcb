"""The servers of the cases, and the actions and queries on them.

A world is shared by all cases with the same `server`, and is repaired before each case. It is stopped after a failed
case, and after a case with `own`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet

from tests.cluster import Cluster
from tests.conformance.identity import IdentityProvider
from tests.conformance.wire import Wire
from tests.integration.served import tenant
from tests.processes import ServerProcess, until
from tests.services import PostgresServer, RedisServer
from tests.upstream import (
    Close,
    Hang,
    Pause,
    Raw,
    Reset,
    Script,
    Step,
    Upstream,
    done,
    error_event,
    event,
    finish,
    reasoning,
    refusal,
    role,
    text,
    tool_call,
    usage,
)

KEY = "sk-of-nobody"
CONFIG = """
[providers.up]
kind = "openai"
base_url = "{url}"
api_key = "env:UPSTREAM_KEY"
retries = 0
[providers.up.timeouts]
first_token = 1
idle = 1

[providers.spare]
kind = "openai"
base_url = "{url}"
api_key = "env:UPSTREAM_KEY"
retries = 0

[providers.thinker]
kind = "openai"
base_url = "{url}"
api_key = "env:UPSTREAM_KEY"
switches.replay_reasoning = "content"

[providers.gone]
kind = "openai"
base_url = "http://127.0.0.1:9/v1"
retries = 0

[providers.typewriter]
kind = "scripted"

[models.scripted]
provider = "typewriter"
name = "scripted"
images = true
prices = {{ prompt = 2.0, completion = 8.0 }}

[models.upstream]
provider = "up"
name = "vendor/test-1"

[models.first]
provider = "up"
name = "vendor/first"
fallback = ["second"]

[models.second]
provider = "spare"
name = "vendor/second"

[models.thinker]
provider = "thinker"
name = "vendor/thinker"
sampling = false
efforts = ["low", "high"]

[models.responses]
provider = "thinker"
name = "vendor/responses"
api = "responses"

[models.unreachable]
provider = "gone"
name = "vendor/test-1"

[models.small]
provider = "typewriter"
name = "scripted"
context_tokens = 100
tools = false

[server]
default_model = "scripted"
drain_pause_s = 0
{server}
"""
FAULTY = 9
"""Number of models `upstream-1` and so on, each with its own circuit breaker, so that a case affects no other one."""
CONFIG += "".join(
    f'[models.upstream-{number}]\nprovider = "up"\nname = "vendor/test-1-{number}"\n' for number in range(1, FAULTY + 1)
)
QUERY = "SELECT state, finish_reason, error, last_sequence FROM reply WHERE id = '{id}'"
PARTS = "SELECT parts FROM message WHERE reply_id = '{id}'"


class World:
    """A server or a cluster, the upstream of its models, and a wire to its first server."""

    def __init__(self, spec: dict[str, Any], folder: Path, services: Callable[[], tuple[PostgresServer, RedisServer]]):
        self.spec = spec
        self.upstream = Upstream()
        self._folder = folder
        self._services = services
        self._cluster: Cluster | None = None
        self._server: ServerProcess | None = None
        self._identity = IdentityProvider()
        self._exits: list[asyncio.Task[int]] = []
        self.wire = Wire(0)

    @property
    def servers(self) -> list[ServerProcess]:
        if self._cluster is not None:
            return [self._cluster[index] for index in range(len(self._cluster))]
        assert self._server is not None
        return [self._server]

    async def start(self) -> None:
        await self.upstream.__aenter__()
        await self._identity.__aenter__()
        settings = dict(self.spec.get("settings", {}))
        if self.spec.get("kind") == "cluster":
            self._cluster = await self._start_cluster(settings)
        else:
            lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in settings.items())
            lines = CONFIG.format(url=self.upstream.url, server=lines)
            for name, fields in self.spec.get("tenants", {}).items():
                lines += tenant(name, *fields["keys"], **{key: fields[key] for key in fields if key != "keys"})
            if "token_tenant" in self.spec:
                lines += self._identity.config(self.spec["token_tenant"])
            if "drain_pause_s" in settings:
                lines = lines.replace("drain_pause_s = 0\n", "", 1)
            secrets = {"PARLEY_ENCRYPTION_KEYS": Fernet.generate_key().decode()} if "tenants" in self.spec else {}
            self._server = ServerProcess(self._folder, toml=lines, forked=True, UPSTREAM_KEY=KEY, **secrets)
            await self._server.start()
        self.wire = Wire(self.servers[0].port)
        await self.wire.__aenter__()

    async def _start_cluster(self, settings: dict[str, Any]) -> Cluster:
        """Start a cluster without `async with`, since it runs until the end of the session."""
        self._folder.mkdir(exist_ok=True)
        postgres, redis = await asyncio.to_thread(self._services)
        cluster = Cluster(
            self._folder,
            postgres,
            redis,
            self.upstream,
            replicas=2,
            lease_s=3.0,  # longer than a burst of work; one case waits for its end
            server={"drain_pause_s": 0} | settings,
        )
        return await cluster.__aenter__()

    async def stop(self) -> None:
        await self.wire.__aexit__()
        for task in self._exits:
            task.cancel()
        await asyncio.gather(*self._exits, return_exceptions=True)
        if self._cluster is not None:
            await self._cluster.__aexit__()
        if self._server is not None:
            await self._server.__aexit__()
        await self._identity.__aexit__()
        await self.upstream.__aexit__()

    async def repair(self) -> None:
        """Start the servers that do not run, and lead a new wire to the first."""
        for task in self._exits:
            await task
        self._exits.clear()
        for server in self.servers:
            if not server.running:
                await server.start()
        # It has a new address, since a gRPC library may remember that the last one refused connections.
        await self.wire.__aexit__()
        self.wire = Wire(self.servers[0].port)
        await self.wire.__aenter__()
        self.upstream._next.clear()

    # --- actions

    async def act(self, what: str, index: int) -> None:
        server = self.servers[index]
        if what == "kill":
            await server.kill9()
        elif what == "start":
            await server.start()
        elif what == "restart":
            await server.kill9()
            await server.start()
        elif what == "drain":
            self._exits.append(asyncio.create_task(server.terminate()))
            await self._not_serving(server)
        elif what == "drained":
            assert await self._exits.pop() == 0, f"the drain did not end well: {server.output}"
        else:
            raise AssertionError(f"nothing that can be done to a server: {what}")

    async def _not_serving(self, server: ServerProcess) -> None:
        """Wait until the server has begun to drain."""

        async def draining() -> bool:
            return not server.running or await server.health() != "SERVING"

        await until(draining, "it drains")
        await asyncio.sleep(0.05)  # it refuses calls shortly after its health has changed

    def identity(self, what: str) -> None:
        assert what == "up", f"nothing that can be done to an identity provider: {what}"
        self._identity.up()

    async def storage(self, what: str) -> None:
        assert self._cluster is not None, "the database of a cluster alone can be taken away"
        postgres = self._cluster.postgres
        if what == "down":
            await asyncio.to_thread(postgres.kill9)
        else:
            await asyncio.to_thread(postgres.start)

    # --- queries

    def marks(self) -> list[int]:
        """The number of log lines of each server."""
        return [len(server.lines) for server in self.servers]

    def calls(self, marks: list[int]) -> list[dict[str, Any]]:
        """The log lines of calls after these marks; of a server that was started again, all of its lines."""
        found = []
        for server, mark in zip(self.servers, marks, strict=True):
            lines = server.lines[mark:] if len(server.lines) >= mark else server.lines
            logged = [json.loads(line) for line in lines if line.startswith("{")]
            found += [each for each in logged if each["event"] == "call"]
        return [{**each, "method": each["method"].rpartition("/")[2]} for each in found]

    async def stored(self, reply_id: str) -> dict[str, Any]:
        """The state, the text and the end of a reply in the database."""
        query, parts = QUERY.format(id=reply_id), PARTS.format(id=reply_id)
        if self._cluster is not None:
            found, messages = await self._cluster.rows(query), await self._cluster.rows(parts)
        else:
            found, messages = self.servers[0].rows(query), self.servers[0].rows(parts)
        assert found, f"the database has no reply {reply_id}"
        state, reason, error, sequence = found[0]
        texts = [part["text"] for (each,) in messages for part in json.loads(each) if part["type"] == "text"]
        return {
            "state": state,
            "finish_reason": reason,
            "error": _shown_reason(json.loads(error)) if error else None,
            "last_sequence": sequence,
            "messages": len(messages),
            "text": "".join(texts),
        }


class Worlds:
    """All worlds of a session, by the `server` of cases. `close` stops them."""

    def __init__(self, folder: Path, services: Callable[[], tuple[PostgresServer, RedisServer]]) -> None:
        self._folder = folder
        self._services = services
        self._worlds: dict[str, World] = {}
        self._numbers = itertools.count(1)

    async def of(self, spec: dict[str, Any]) -> World:
        key = json.dumps(spec, sort_keys=True)
        world = self._worlds.pop(key, None)
        if world is None:
            world = World(spec, self._folder / f"world{next(self._numbers)}", self._services)
            await world.start()
        self._worlds[key] = world
        await world.repair()
        return world

    async def give_back(self, world: World, *, passed: bool) -> None:
        """Keep a world after a case, or stop it if the case has failed or has its own server."""
        if passed and not world.spec.get("own"):
            return
        self._worlds.pop(json.dumps(world.spec, sort_keys=True), None)
        await world.stop()

    async def close(self) -> None:
        for world in self._worlds.values():
            await world.stop()


# --- responses of the upstream


def upstream_script(response: Any) -> Script:
    """A response as a case writes it: a list of pieces, or a mapping with `status`, and optionally `headers`
    and a `body` of JSON, for a refusal."""
    if isinstance(response, dict):
        headers = {name.replace("-", "_"): value for name, value in response.get("headers", {}).items()}
        return refusal(response["status"], response.get("body"), **headers)
    return Script([_piece(each) for each in response])


def _piece(response: Any) -> Step:
    word, value = (response, None) if isinstance(response, str) else next(iter(response.items()))
    pieces: dict[str, Callable[[], Step]] = {
        "role": role,
        "text": lambda: text(value),
        "reasoning": lambda: reasoning(value),
        "tool_call": lambda: tool_call(0, value.get("arguments", ""), call_id=value["id"], name=value["name"]),
        "finish": lambda: finish(value or "stop"),
        "usage": lambda: usage(*value),
        "done": done,
        "error": error_event,
        "event": lambda: event(value),
        "raw": lambda: Raw(value.encode()),
        "garbage": lambda: b"data: {not json\n\n",
        "reset": Reset,
        "close": Close,
        "hang": Hang,
        "pause": lambda: Pause(value),
    }
    assert word in pieces, f"no piece of a response: {word}"
    return pieces[word]()


def _shown_reason(error: dict[str, Any]) -> str:
    """The reason that callers get: one that is newer than what all releases read stands beside an older one."""
    return str(error.get("shown") or error["reason"])
