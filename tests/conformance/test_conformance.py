"""Every case, with every client: see README.md."""

from __future__ import annotations

import pytest

from tests.conformance.cases import Case, load_cases
from tests.conformance.players import FORMS, PLAYERS, require
from tests.conformance.runner import Run
from tests.lanes import LOADED

CASES = load_cases()


def _params() -> list[object]:
    """A client's cases with one server stay together, and so do those that need several servers. Cases whose server has
    settings of its own are a second group, which can run beside the first."""
    return [
        pytest.param(case, client, id=f"{case.id}-{client}", marks=pytest.mark.xdist_group(_group(case, client)))
        for client in (*PLAYERS, *FORMS)
        for case in CASES
        if client in PLAYERS or case.leaves_streams
    ]


def _group(case: Case, client: str) -> str:
    if case.server.get("kind") == "cluster":
        return LOADED
    return f"conformance-{client}-settings" if case.server else f"conformance-{client}"


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(("case", "client"), _params())
async def test_conformance(case: Case, client: str, players, worlds, need_services) -> None:
    require(client)
    need_services(case.server)
    world = await worlds.of(case.server)
    player = await players.of(client)
    problem: str | None = "the runner failed"
    try:
        problem = await _problem(Run(case, player, world))
    finally:
        await players.give_back(player, passed=problem is None)
        await worlds.give_back(world, passed=problem is None)
    if problem is not None:
        pytest.fail(f"{case.shows}\n{problem}", pytrace=False)


async def _problem(run: Run) -> str | None:
    """The message of a failed case, without the traceback of the runner; None if it passes."""
    try:
        await run.play()
    except AssertionError as failure:
        return str(failure)
    return None
