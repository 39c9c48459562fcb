"""Running products that all tests of a session share, and an upstream server for each test.

A product starts at its first use and runs to the end of the session. Each test has users of its own, so that the
conversations and limits of one test are those of no other.
"""

from __future__ import annotations

import contextlib

import pytest

from tests.products.models import Model
from tests.products.stands import Stand, prepared
from tests.upstream import Upstream


@pytest.fixture(scope="session")
def stands(tmp_path_factory):
    """A function that returns the running product of a name."""
    found: dict[str, Stand] = {}
    with contextlib.ExitStack() as stack:

        def stand(name: str) -> Stand:
            if name not in found:
                found[name] = stack.enter_context(prepared(name, tmp_path_factory.mktemp(name)))
            return found[name]

        yield stand


@pytest.fixture
def stand(request, stands):
    """The product that the test or its module names as `PRODUCT`, or a parameter of this fixture."""
    found = stands(getattr(request, "param", None) or request.module.PRODUCT)
    found.start_stopped_parts()
    return found


@pytest.fixture
async def upstream(stand):
    """The vendor's server."""
    async with Upstream(port=stand.upstream_port) as server:
        yield server


@pytest.fixture
def model(stand, upstream):
    """What the vendor says."""
    return Model(stand.product.name, upstream)


@pytest.fixture
async def ada(stand):
    """A browser of one user."""
    async with stand.browser(stand.user("ada")) as browser:
        yield browser


@pytest.fixture
async def ben(stand):
    """A browser of another user."""
    async with stand.browser(stand.user("ben")) as browser:
        yield browser
