"""Every case, with every client: see README.md."""

from __future__ import annotations

import os

import pytest

from tests.conformance.cases import Case, load_cases
from tests.conformance.players import PLAYERS, missing
from tests.conformance.runner import Run

CASES = load_cases()


def _params() -> list[object]:
    """A client's cases stay together, and so do those that share a cluster: a process each, where there are two."""
    return [
        pytest.param(case, client, id=f"{case.id}-{client}", marks=pytest.mark.xdist_group(_group(case, client)))
        for client in PLAYERS
        for case in CASES
    ]


def _group(case: Case, client: str) -> str:
    return f"conformance-{client}-{'cluster' if case.server.get('kind') == 'cluster' else 'one'}"


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.parametrize(("case", "client"), _params())
async def test_conformance(case: Case, client: str, players, worlds, need_services) -> None:
    if lack := missing(client):
        (pytest.fail if os.environ.get("CI") else pytest.skip)(lack)
    need_services(case.server)
    world = await worlds.of(case.server)
    player = await players.of(client)
    well = False
    try:
        await Run(case, player, world).play()
        well = True
    except AssertionError as failure:
        pytest.fail(f"{case.id}: {failure}\n  {case.shows}", pytrace=False)
    finally:
        await players.give_back(player, well=well)
        await worlds.give_back(world, well=well)
