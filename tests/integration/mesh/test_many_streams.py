"""Many concurrent streams on one connection complete."""

from __future__ import annotations

import pytest

from tests.endurance import rounds
from tests.integration.mesh.conftest import running
from tests.lanes import LOADED

pytestmark = [pytest.mark.xdist_group(LOADED), pytest.mark.timeout(120)]
STREAMS = rounds(1000, short=250)


@pytest.mark.parametrize("kind", ["direct", "envoy"])
async def test_many_streams_on_one_connection_complete(tmp_path, kind: str) -> None:
    async with running(tmp_path, kind) as mesh, mesh.streams(STREAMS, connections=1):
        await mesh.readers(STREAMS)
