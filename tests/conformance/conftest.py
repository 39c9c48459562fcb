"""Servers and players of a session, and its report: one row per case, one column per client."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
import pytest_asyncio

from tests.conformance.players import PLAYERS, ROOT, Player, client_of
from tests.conformance.world import Worlds
from tests.services import PostgresServer, RedisServer, initdb, require_postgres, require_redis

REPORT = ROOT / "build" / "conformance.md"
WORDS = {"passed": "pass", "failed": "FAIL", "skipped": "not run"}
_outcomes: dict[str, dict[str, str]] = defaultdict(dict)


class Players:
    """One running player per client; a player that has failed a case or has ended is replaced."""

    def __init__(self) -> None:
        self._players: dict[str, Player] = {}

    async def of(self, client: str) -> Player:
        player = self._players.get(client)
        if player is None or not player.running:
            player = Player(client)
            await player.__aenter__()
            self._players[client] = player
        return player

    async def give_back(self, player: Player, *, passed: bool) -> None:
        if not passed:
            self._players.pop(player.client, None)
            await player.__aexit__()

    async def close(self) -> None:
        for player in self._players.values():
            await player.__aexit__()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def players():
    made = Players()
    yield made
    await made.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def worlds(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("conformance")
    services: list[PostgresServer | RedisServer] = []

    def start_services() -> tuple[PostgresServer, RedisServer]:
        if not services:
            postgres = PostgresServer(folder / "postgres", template=initdb(folder))
            services.extend((postgres.__enter__(), RedisServer(folder / "redis").__enter__()))
        return services[0], services[1]  # type: ignore[return-value]  # in this order

    made = Worlds(folder, start_services)
    yield made
    await made.close()
    for service in services:
        service.__exit__()


@pytest.fixture
def need_services():
    """A function that skips the cases of clusters if PostgreSQL or Redis is missing; with CI set, it fails them."""

    def need(spec: dict[str, object]) -> None:
        if spec.get("kind") == "cluster":
            require_postgres()
            require_redis()

    return need


# --- the report


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if hasattr(item, "callspec") and "client" in item.callspec.params and "case" in item.callspec.params:
        report.user_properties.append(
            ("conformance", (item.callspec.params["case"].id, item.callspec.params["client"]))
        )


def pytest_runtest_logreport(report):
    """Record an outcome. With xdist the controller is called for all tests, and writes the report."""
    for name, value in report.user_properties:
        if name == "conformance":
            case, client = value
            if report.when == "call" or report.outcome != "passed":
                outcomes, column = _outcomes[case], client_of(client)
                if outcomes.get(column) != WORDS["failed"]:  # a client fails if one of its forms does
                    outcomes[column] = WORDS[report.outcome]


def pytest_terminal_summary(terminalreporter, config):
    if not _outcomes or hasattr(config, "workerinput"):
        return
    from tests.conformance.cases import load_cases

    order = [case.id for case in load_cases() if case.id in _outcomes]
    rows = [
        f"| {case} | {' | '.join(_outcomes[case].get(client, 'not run') for client in PLAYERS)} |" for case in order
    ]
    totals = [_total(client) for client in PLAYERS]
    head = [f"| case | {' | '.join(PLAYERS)} |", f"|---|{'---|' * len(PLAYERS)}"]
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text("\n".join(["# Conformance", "", *head, *rows, f"| | {' | '.join(totals)} |", ""]))
    terminalreporter.section("conformance")
    for client, total in zip(PLAYERS, totals, strict=True):
        terminalreporter.write_line(f"{client:12} {total}")
    terminalreporter.write_line(f"written to {REPORT.relative_to(ROOT)}")


def _total(client: str) -> str:
    column = [outcomes.get(client, "not run") for outcomes in _outcomes.values()]
    return ", ".join(f"{column.count(word)} {word}" for word in WORDS.values() if column.count(word)) or "none"
