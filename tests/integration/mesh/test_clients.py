"""Every client through Envoy with deploy/envoy.yaml, whose connection to the server breaks within a stream."""

from __future__ import annotations

import asyncio
import json

import pytest
import pytest_asyncio

from tests.conformance.expect import check_stream
from tests.conformance.players import PLAYERS, Player, require
from tests.integration.mesh.proxies import Envoy, envoy_binary
from tests.processes import ServerProcess
from tests.proxy import Proxy

pytestmark = [
    pytest.mark.xdist_group("mesh-clients"),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(60),
]
WORDS = 60
TEXT = " ".join(str(number) for number in range(WORDS))
BACKOFF = {"first_s": 0.05, "max_s": 0.3, "max_elapsed_s": 30}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory):
    """Envoy, and the link between it and a server."""
    envoy_binary()
    folder = tmp_path_factory.mktemp("mesh")
    async with ServerProcess(folder / "server", forked=True) as server, Proxy(server.port) as link:
        envoy = Envoy(folder / "envoy", link.port)
        await asyncio.to_thread(envoy.start)
        try:
            yield envoy, link
        finally:
            await asyncio.to_thread(envoy.stop)


@pytest.mark.parametrize("client", PLAYERS)
async def test_a_stream_goes_on_after_the_link_behind_envoy_broke(mesh, client):
    require(client)
    envoy, link = mesh
    async with Player(client) as player:
        await player.send(
            {"id": "c", "op": "client", "name": "c", "address": f"127.0.0.1:{envoy.port}", "backoff": BACKOFF}
        )
        script = "/script " + json.dumps({"text": TEXT, "delay_s": 0.05})
        await player.send({"id": "s", "op": "stream", "client": "c", "request": {"text": script}})
        await player.until("s", kind="text", count=3)
        await link.reset()
        await player.until("s")
        events = player.events["s"]
    check_stream(events)
    assert (events[-1]["event"], events[-1]["text"]) == ("end", TEXT), events[-1]
    met = {(each["error"]["code"], each["error"]["reason"]) for each in events if each["event"] == "reconnecting"}
    assert ("INTERNAL", "") in met, "Envoy ends the stream with RST_STREAM and INTERNAL_ERROR"
