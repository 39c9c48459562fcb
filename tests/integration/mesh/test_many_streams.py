"""A thousand concurrent streams on one connection complete."""

from __future__ import annotations

import pytest

from tests.integration.mesh.conftest import running
from tests.lanes import LOADED

pytestmark = [pytest.mark.xdist_group(LOADED), pytest.mark.timeout(120)]
STREAMS = 1000


@pytest.mark.parametrize("kind", ["direct", "envoy"])
async def test_a_thousand_streams_on_one_connection_complete(tmp_path, kind: str) -> None:
    async with running(tmp_path, kind) as mesh, mesh.streams(STREAMS, connections=1):
        await mesh.readers(STREAMS)
