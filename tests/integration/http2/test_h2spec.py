"""h2spec, which tries what RFC 9113 and RFC 7541 demand of a server."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LIMIT_S = 60.0


def h2spec() -> str:
    """Where it is; without it the test is skipped, but on CI it fails."""
    places = os.pathsep.join([os.environ.get("PATH", ""), str(ROOT / ".tools/bin"), str(Path.home() / "go/bin")])
    found = shutil.which("h2spec", path=places)
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("h2spec is not installed")
    return found


async def test_h2spec(serve):
    running = await serve()
    asked = await asyncio.create_subprocess_exec(
        *(h2spec(), "-h", "127.0.0.1", "-p", str(running.port), "-o", "2", "generic", "hpack", "http2"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(LIMIT_S):
        output = (await asked.communicate())[0].decode()
    assert asked.returncode == 0, output
    assert "145 tests, 145 passed, 0 skipped, 0 failed" in output
    await running.until_idle()
