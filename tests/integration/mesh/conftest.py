"""A server process with an upstream that the test controls, behind Envoy, nginx or no proxy."""

import contextlib

import pytest

from tests.integration.mesh.callers import Mesh
from tests.integration.mesh.proxies import Envoy, Nginx, envoy_binary, nginx_binary
from tests.integration.served import CONFIG, KEY
from tests.processes import ServerProcess
from tests.upstream import Upstream

SERVER = "max_replies = 4000\ndrain_pause_s = 1.5\ndrain_grace_s = 20.0"
"""The pause is longer than deploy/envoy.yaml takes to notice a drain, as compose.yaml has it."""


@pytest.fixture(params=["envoy", "nginx"])
async def mesh(request, tmp_path):
    """A running server behind each proxy."""
    async with running(tmp_path, request.param) as made:
        yield made


@contextlib.asynccontextmanager
async def running(folder, kind):
    """`kind`: "envoy", "nginx", or "direct"."""
    {"envoy": envoy_binary, "nginx": nginx_binary, "direct": str}[
        kind
    ]()  # a missing one is said before anything starts
    async with Upstream() as upstream:
        config = CONFIG.format(url=upstream.url, key="env:UPSTREAM_KEY", provider="", models="", server=SERVER)
        async with ServerProcess(folder / "parley", toml=config, forked=True, UPSTREAM_KEY=KEY) as server:
            with contextlib.ExitStack() as stack:
                proxy = None
                if kind != "direct":
                    proxy = stack.enter_context({"envoy": Envoy, "nginx": Nginx}[kind](folder / kind, server.port))
                yield Mesh(server, upstream, proxy)
