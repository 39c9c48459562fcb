"""The Python examples as processes, each beside a real Parley, and requests to them."""

import contextlib
import importlib.util
import sys
from dataclasses import dataclass

import pytest

from tests.products.backends import EXAMPLES, Product, started
from tests.products.browsing import Browser
from tests.upstream import Upstream


@dataclass
class Users:
    """Browsers of a product."""

    product: Product

    @contextlib.asynccontextmanager
    async def browser(self, user="ada", **claims):
        async with Browser(self.product, user, **claims) as browser:
            yield browser


@pytest.fixture
def start(tmp_path):
    """Starts an example and its Parley: `start("negotiate", toml, STREAMING="off")`."""
    with contextlib.ExitStack() as stack:

        def start(name, toml, *, parley=None, **environment):
            options = {"toml": toml, "parley_environment": parley or {}, "environment": environment}
            return Users(stack.enter_context(started(name, tmp_path / name, **options)))

        yield start


@pytest.fixture
def load(monkeypatch):
    """Imports a module of an example: `load("negotiate", "codes")`."""

    def load(name, module):
        monkeypatch.syspath_prepend(str(EXAMPLES / name))
        path = EXAMPLES / name / f"{module}.py"
        spec = importlib.util.spec_from_file_location(f"{name}_{module}", path)
        loaded = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, loaded)
        spec.loader.exec_module(loaded)
        return loaded

    return load


@pytest.fixture
async def upstream():
    async with Upstream() as server:
        yield server
