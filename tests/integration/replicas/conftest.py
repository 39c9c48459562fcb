"""Fixtures of tests that need several servers: processes on a real PostgreSQL and a real Redis."""

import contextlib

import pytest

from tests.cluster import Cluster
from tests.lanes import LOADED, WAITING, is_loaded

LEASE_S = 12.0


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Three busy servers at a time are what two cores bear."""
    for item in items:
        if "integration/replicas" in item.nodeid and not item.nodeid.startswith(WAITING) and not is_loaded(item):
            item.add_marker(pytest.mark.xdist_group(LOADED))


@pytest.fixture
async def start_cluster(tmp_path, upstream, request):
    """Starts servers: `await start_cluster(replicas=3, lease_s=2.0, ...)`.

    They share the run's PostgreSQL and Redis, where none is given: `postgres=own_postgres, redis=own_redis`.
    """
    async with contextlib.AsyncExitStack() as stack:

        async def start(*, postgres=None, redis=None, **options):
            postgres = postgres or request.getfixturevalue("shared_postgres")
            redis = redis or request.getfixturevalue("shared_redis")
            return await stack.enter_async_context(Cluster(tmp_path, postgres, redis, upstream, **options))

        yield start


@pytest.fixture
async def cluster(start_cluster):
    """Three servers with leases that no burst of work on the machine ends."""
    return await start_cluster(lease_s=LEASE_S)
