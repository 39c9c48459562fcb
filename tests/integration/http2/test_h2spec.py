"""h2spec, which tries what RFC 9113 and RFC 7541 demand of a server."""

from __future__ import annotations

import asyncio

from tests.tools import tool

LIMIT_S = 60.0


async def test_h2spec(serve):
    running = await serve()
    asked = await asyncio.create_subprocess_exec(
        *(tool("h2spec"), "-h", "127.0.0.1", "-p", str(running.port), "-o", "2", "generic", "hpack", "http2"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(LIMIT_S):
        output = (await asked.communicate())[0].decode()
    assert asked.returncode == 0, output
    assert "145 tests, 145 passed, 0 skipped, 0 failed" in output
    await running.until_idle()
