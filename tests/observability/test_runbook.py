"""Runs the commands of docs/operations.md in order, with PostgreSQL and Redis, and those of each failure while it
lasts; checks the commands that need a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final, Self

import pytest

from tests import watchdog
from tests.commands import blocks
from tests.ports import free_port
from tests.processes import clean_environment
from tests.services import PostgresServer, RedisServer, require_redis
from tests.tools import ROOT, tool
from tests.upstream import Request, Script, Upstream, refusal

PAGE = (ROOT / "docs/operations.md").read_text()
TOOLS = ("curl", "grpcurl", "openssl", "pg_dump", "pg_restore", "promtool", "psql", "redis-cli")
NOT_RUN = [
    "helm upgrade --install parley deploy/helm/parley --namespace chat --values production.yaml --timeout 1h",
    "docker compose up --build --detach --wait",
    "helm upgrade parley deploy/helm/parley --namespace chat --reuse-values --set replicas=5",
    "helm upgrade parley deploy/helm/parley --namespace chat --values production.yaml --timeout 1h",
    "kubectl --namespace chat rollout status deployment/parley",
    "helm rollback parley --namespace chat",
    "docker compose build",
    "docker compose run --rm migrate",
    "docker compose up --detach --no-deps --wait parley-a",
    "docker compose up --detach --no-deps --wait parley-b",
    "kubectl --namespace chat get certificate parley",
    "kubectl cert-manager renew --namespace chat parley",
    "kubectl --namespace chat wait --for=condition=Ready certificate/parley",
    "helm uninstall parley --namespace chat",
    "docker compose down --volumes",
]
"""The commands that no test runs, since they need a cluster or Docker."""
NOT_PROVOKED: Final = ("A disk is full", "A clock jumps")
"""Failures whose commands are only run on a server without them. `tests/siege` provokes both."""
LIMIT_S = 900
ROLE, REVOKED_KEY = "chat", "sk-revoked-000000000"
"""The role of PostgreSQL in place of the page's `parley`, which is the superuser of the tests."""


class Stand:
    """PostgreSQL, where the role needs its password, Redis with an ACL file, and a vendor that has revoked one key;
    `replaced` are the page's addresses, with those to use."""

    def __init__(self, folder: Path, postgres: PostgresServer, redis: RedisServer, upstream: Upstream) -> None:
        self.folder, self.postgres, self.redis = folder, postgres, redis
        (folder / "deploy").symlink_to(ROOT / "deploy")
        ports = [free_port() for _ in range(4)]
        self.listen, self.metrics = (f"127.0.0.1:{port}" for port in ports[:2])
        self.replaced = {
            "parley:parley@127.0.0.1:5432/parley": f"{ROLE}:parley@127.0.0.1:{postgres.port}/{ROLE}",
            "127.0.0.1:6379": f"127.0.0.1:{redis.port}",
            "127.0.0.1:50051": self.listen,
            "127.0.0.1:9464": self.metrics,
            "127.0.0.1:50052": f"127.0.0.1:{ports[2]}",
            "127.0.0.1:9465": f"127.0.0.1:{ports[3]}",
            'kind = "openai"\n': f'kind = "openai"\nbase_url = "{upstream.url}"\n',
        }
        upstream.reply_with(_vendor)
        rights = postgres.data / "pg_hba.conf"
        rights.write_text(f"host all {ROLE} 127.0.0.1/32 scram-sha-256\n" + rights.read_text())
        for query in (
            f"CREATE ROLE {ROLE} LOGIN PASSWORD 'parley'",
            f"CREATE DATABASE {ROLE} OWNER {ROLE}",
            "SELECT pg_reload_conf()",
        ):
            postgres.rows(query)

    def commands(self, text: str) -> str:
        """The commands of a part of the page, with the addresses of this stand."""
        commands = "\n".join(blocks(text, "sh"))
        for written, used in self.replaced.items():
            commands = commands.replace(written, used)
        return commands

    @property
    def environment(self) -> dict[str, str]:
        places = [str(Path(sys.executable).parent), *(str(Path(tool(name)).parent) for name in TOOLS)]
        variables = {"PARLEY_LISTEN": self.listen, "PARLEY_METRICS_LISTEN": self.metrics, "no_proxy": "127.0.0.1"}
        environment = clean_environment(**variables)
        environment["PATH"] = os.pathsep.join([*dict.fromkeys(places), environment["PATH"]])
        return environment


def _vendor(request: Request) -> Script:
    if REVOKED_KEY in request.headers.get("authorization", ""):
        return refusal(401)
    return refusal(200, {"object": "list", "data": []})  # the list of models


@pytest.fixture
async def stand(tmp_path: Path, own_postgres: PostgresServer) -> AsyncIterator[Stand]:
    require_redis()
    users = tmp_path / "users.acl"
    users.touch()
    folder = tmp_path / "clone"
    folder.mkdir()
    with RedisServer(tmp_path / "redis", settings={"aclfile": str(users)}) as redis:
        async with Upstream() as upstream:
            yield await asyncio.to_thread(Stand, folder, own_postgres, redis, upstream)


@pytest.mark.timeout(LIMIT_S + 30)
async def test_the_commands_run_in_order(stand: Stand) -> None:
    commands = stand.commands(PAGE)
    assert [used for used in stand.replaced.values() if used not in commands] == []
    output = await asyncio.to_thread(_run, commands, stand)
    for expected in (
        r"the configuration is valid: 2 models, fast by default",
        r"^parley_lease_held 1\.0$",
        r'"event":"reply".*"state":"COMPLETED"',
        r"^shop +\d{4}-\d\d-\d\d +1 ",
        r'"finish_reason": "STOP"',
        r'"status": "SERVING"',
        r"^replicas\n.*\n.* 0\n.* 0$",
        r"^1 conversations$",
        r"^1 .*encrypted",
        r"stored keys +1, all can be decrypted",
        r"provider openai +accepts the key",
        r"^PONG$",
        r"^subject=CN = server-1$",
        r"Certificate will not expire",
        r'"event":"certificate_reloaded"',
        r"^used_memory:\d+",
        r"^the database's clock is -?[01] s ahead",
        r"^ message ",
        r"^DROP OWNED$",
    ):
        assert re.search(expected, output, re.MULTILINE), f"{expected} is not in {output}"


Provoke = Callable[["Shell", Stand], Awaitable[None]]


async def lose_redis(shell: Shell, stand: Stand) -> None:
    await asyncio.to_thread(stand.redis.command, "ACL", "SAVE")
    await asyncio.to_thread(stand.redis.stop)
    await shell.logged("relay_lost")


async def return_redis(shell: Shell, stand: Stand) -> None:
    await asyncio.to_thread(stand.redis.start)
    await shell.logged("relay_restored")


async def lose_postgres(shell: Shell, stand: Stand) -> None:
    await asyncio.to_thread(stand.postgres.stop, "immediate")
    await shell.logged("database_lost")


async def return_postgres(shell: Shell, stand: Stand) -> None:
    await asyncio.to_thread(stand.postgres.start)
    await shell.logged("database_restored")


async def revoke_key(shell: Shell, stand: Stand) -> None:
    call = f'grpcurl -plaintext -H "authorization: Bearer $ops" -d "$key" {stand.listen} parley.v1.Admin/SetProviderKey'
    await shell.run(
        f'key=\'{{"provider":"openai","api_key":"{REVOKED_KEY}"}}\'\n{call}\n'
        f"PARLEY_API_KEY=$shop parley chat --address {stand.listen} --end-user ada --model large Hello"
    )
    await shell.logged("provider_attempt")


async def start_long_reply(shell: Shell, stand: Stand) -> None:
    """As many replies as the server takes, and one that it refuses."""
    create = (
        f'grpcurl -plaintext -H "authorization: Bearer $shop" -d "$asked" {stand.listen} parley.v1.Chat/CreateReply'
    )
    script = r"/script {\"text\":\"word \",\"repeat\":2000,\"delay_s\":0.05}"
    await shell.run(f'asked=\'{{"text":"{script}","wait":"0s"}}\'\n{create}\n{create}')


async def kill_owner(shell: Shell, stand: Stand) -> None:
    await start_long_reply(shell, stand)
    await shell.run('kill -9 "$server"')
    await shell.until("parley status", "no replica holds a lease")


async def start_another(shell: Shell, stand: Stand) -> None:
    await shell.run("start")
    await shell.logged("reply_taken_over")


async def break_configuration(shell: Shell, stand: Stand) -> None:
    await shell.run('cp parley.toml good.toml\necho "[models.large" >>parley.toml\nkill -HUP "$server"')
    await shell.logged("config_faulty")


async def mend_configuration(shell: Shell, stand: Stand) -> None:
    await shell.run('mv good.toml parley.toml\nkill -HUP "$server"')
    await shell.until(f"curl --silent http://{stand.metrics}/metrics", "parley_config_faulty 0.0")


async def nothing(shell: Shell, stand: Stand) -> None:
    pass


FAILURES: dict[str, tuple[Provoke, tuple[str, ...], Provoke]] = {
    "Redis is lost": (
        lose_redis,
        (r"connection to Redis has been lost", r"Could not connect to Redis", r'"event":"relay_lost"'),
        return_redis,
    ),
    "PostgreSQL fails over": (
        lose_postgres,
        (r"Connection refused", r'"status": "NOT_SERVING"', r'"event":"database_lost"', r"^parley status: "),
        return_postgres,
    ),
    "A provider refuses its key": (
        revoke_key,
        (r'"event":"provider_attempt".*"class":"key"', r"provider openai +accepts the key"),
        nothing,
    ),
    "A changed configuration is not applied": (
        break_configuration,
        (r"^parley_config_faulty 1\.0$", r'"event":"config_faulty"', r"^the configuration has 1 fault:"),
        mend_configuration,
    ),
    "Replies are refused as OVERLOADED": (
        start_long_reply,
        (r"^parley_replies_active 1\.0$", r'^parley_refusals_total\{reason="OVERLOADED"\} 1\.0$'),
        nothing,
    ),
    "Replies or leases do not end": (
        kill_owner,
        (
            r"no replica holds a lease",
            r"running replies belong to replicas that have left|lease of replica \w+ expired",
        ),
        start_another,
    ),
}
"""Each failure: how it is provoked, what its commands then show, and how it ends."""


@pytest.mark.timeout(LIMIT_S + 30)
async def test_the_commands_of_each_failure_show_it(stand: Stand) -> None:
    found = re.findall(r"^### (.*)\n", _between("## Failures", "## Incidents"), re.MULTILINE)
    assert sorted(found) == sorted([*FAILURES, *NOT_PROVOKED])
    stand.replaced["[server]\n"] = "[server]\nlease_s = 3\nmax_replies = 1\n"
    async with Shell(stand) as shell:
        await shell.run("set -e\n" + stand.commands(PAGE[: PAGE.index("\n## Scale\n")]) + "\nset +e")
        for title, (provoke, expected, mend) in FAILURES.items():
            await provoke(shell, stand)
            output = await shell.run(stand.commands(_between(f"### {title}", "##")))
            for each in expected:
                assert re.search(each, output, re.MULTILINE), f"{title}: {each} is not in {output}"
            await mend(shell, stand)
        await shell.run("stop")


def test_the_commands_that_are_not_run_are_listed_and_have_a_valid_syntax() -> None:
    lines = [line for block in blocks(PAGE, "console") for line in block.splitlines()]
    assert [line.removeprefix("$ ") for line in lines] == NOT_RUN
    assert all(re.match(r"\$ (?:docker|kubectl|helm) ", line) for line in lines)
    subprocess.run(["bash", "-n", "-c", "\n".join(NOT_RUN)], check=True)
    assert not re.search(r"^\s*(?:docker|kubectl|helm) ", "\n".join(blocks(PAGE, "sh")), re.MULTILINE)


def test_every_block_of_commands_is_run_or_listed() -> None:
    assert set(re.findall(r"^```(\w*)\n", PAGE, re.MULTILINE)) == {"", "sh", "console"}
    assert len(re.findall(r"^```$", PAGE, re.MULTILINE)) == len(re.findall(r"^```\w+$", PAGE, re.MULTILINE))


def test_parleys_user_of_redis_gets_the_rights_that_the_page_on_clusters_has() -> None:
    pages = (PAGE, (ROOT / "docs/cluster.md").read_text())
    rights = [
        re.findall(r"[-+@~&][\w@:*]+", re.findall(r"resetchannels ([^>]*?)\n(?:export|```)", page)[0]) for page in pages
    ]
    assert len(rights[0]) == 14
    assert rights[0] == rights[1]


def _between(heading: str, next_heading: str) -> str:
    """The page from a heading up to the next line that begins with `next_heading`."""
    start = PAGE.index(f"\n{heading}\n") + len(heading) + 2
    return PAGE[start : PAGE.index(f"\n{next_heading}", start) + 1]


class Shell:
    """A bash in which commands run one after the other, whether they succeed or not; `run` returns their output."""

    def __init__(self, stand: Stand) -> None:
        self._stand = stand
        self._output = stand.folder / "output"
        self._process: subprocess.Popen[bytes] | None = None
        self._count = 0

    async def __aenter__(self) -> Self:
        with self._output.open("wb") as written:
            self._process = subprocess.Popen(
                ["bash", "-u"],
                env=self._stand.environment,
                cwd=self._stand.folder,
                stdin=subprocess.PIPE,
                stdout=written,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        watchdog.watch(self._process.pid)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        _end(self._process)

    async def run(self, commands: str) -> str:
        """The output of the commands. Fails if bash ends."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._count += 1
        before, end = self._output.stat().st_size, f"-- end {self._count} --"
        (self._stand.folder / "commands").write_text(commands)
        self._process.stdin.write(f"source ./commands </dev/null\necho '{end}'\n".encode())
        self._process.stdin.flush()
        while True:
            output = self._output.read_bytes()[before:].decode()
            if end in output:
                return output
            assert self._process.poll() is None, output
            await asyncio.sleep(0.05)

    async def until(self, command: str, expected: str, *, limit_s: float = 60.0) -> None:
        """Repeat a command until its output has these words."""
        deadline = time.monotonic() + limit_s
        while expected not in (output := await self.run(command)):
            assert time.monotonic() < deadline, output
            await asyncio.sleep(0.2)

    async def logged(self, event: str) -> None:
        """Wait until the server has logged this event."""
        await self.until("cat parley.log", f'"event":"{event}"')


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a bash and all that it has started. What runs on after the end of bash is still in its process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    watchdog.forget(process.pid)


def _run(commands: str, stand: Stand) -> str:
    """The output of the commands, which must all succeed. Ends what they have left running."""
    with (stand.folder / "output").open("w+") as written:
        process = subprocess.Popen(
            ["bash", "-euxc", commands],
            env=stand.environment,
            cwd=stand.folder,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        watchdog.watch(process.pid)
        try:
            status = process.wait(LIMIT_S)
        finally:
            _end(process)
        written.seek(0)
        output = written.read()
    assert status == 0, output
    return output
