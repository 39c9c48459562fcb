"""A proxy process that adds network latency to a service on loopback; it prints its port.

python -m benchmarks.far PORT ROUND_TRIP_S
"""

from __future__ import annotations

import asyncio
import sys

import uvloop

from tests.proxy import Proxy


async def run(port: int, round_trip_s: float) -> None:
    """Forward until the process is terminated."""
    async with Proxy(port, latency_s=round_trip_s / 2) as proxy:
        print(proxy.port, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(run(int(sys.argv[1]), float(sys.argv[2])))
