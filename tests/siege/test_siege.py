"""The short form of the siege: every kind of mishap twice, while callers stream through Envoy."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest

from tests.integration.mesh.proxies import envoy_binary
from tests.processes import clean_environment
from tests.services import require_postgres, require_redis
from tests.tools import ROOT

MINUTES, STREAMS, PACE, EVERY_S = 3, 60, 4, 3.7
LIMIT_S = 520


@pytest.mark.timeout(LIMIT_S + 20)
async def test_a_short_siege_breaks_no_promise(tmp_path):
    require_postgres()
    require_redis()
    envoy_binary()
    found = tmp_path / "siege.json"
    size = {"minutes": MINUTES, "streams": STREAMS, "pace": PACE, "every": EVERY_S, "json": found}
    options = [f"--{name}={value}" for name, value in size.items()]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.siege", *options),
        cwd=ROOT,
        env=clean_environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), LIMIT_S)
    assert process.returncode == 0, output.decode()
    result = json.loads(found.read_text())
    assert [each for each in result["findings"] if each["violations"]] == []
    done = [each["mishap"] for each in result["mishaps"] if each["outcome"] == "done"]
    assert len(done) >= 36, result["mishaps"]
    assert result["ends"]["COMPLETED/STOP"] > 100, result["ends"]
    assert {"CANCELLED/CANCELLED", "CANCELLED/INTERRUPTED"} <= result["ends"].keys()
    assert result["counts"]["replies taken over"] > 0
    assert result["counts"]["requests refused by a quota"] > 0
