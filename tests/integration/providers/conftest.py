"""Every test here runs on both event loops: a transport may behave differently on each."""

import asyncio

import pytest
import uvloop

from tests.upstream import Upstream


def pytest_asyncio_loop_factories(config, item):
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def upstream():
    async with Upstream() as server:
        yield server
