"""Measures the CPU per token of the blocking Python client beside the asynchronous one, in one run.

python -m benchmarks.blocking [--streams 20] [--tokens 500] [--rounds 5]

A bare server in another process sends the tokens, either without pauses or 20 per second to each stream. This process
runs only the clients, which alternate. The table has the medians of the rounds, and the median of the pairs' ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import parley

from benchmarks.parleys import start_bare_server
from benchmarks.report import number, table

PACES_MS = (0, 50)


def asynchronous(address: str, model: str, streams: int) -> None:
    """Read all streams at the same time in one event loop."""

    async def read() -> None:
        async with parley.Client(address) as client:
            await asyncio.gather(*(each(client) for _ in range(streams)))

    async def each(client: parley.Client) -> None:
        async for _ in client.stream_reply("Hi", model=model):
            pass

    asyncio.run(read())


def blocking(address: str, model: str, streams: int) -> None:
    """Read each stream in a separate thread."""

    def read() -> None:
        for _ in client.stream_reply("Hi", model=model):
            pass

    with parley.SyncClient(address) as client:
        threads = [threading.Thread(target=read) for _ in range(streams)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def pair(address: str, model: str, streams: int) -> tuple[float, float]:
    """The CPU time of both clients: microseconds of all threads of this process."""
    return cpu_us(asynchronous, address, model, streams), cpu_us(blocking, address, model, streams)


def cpu_us(read: Callable[[str, str, int], None], address: str, model: str, streams: int) -> float:
    began = time.process_time_ns()
    read(address, model, streams)
    return (time.process_time_ns() - began) / 1000


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="parley-blocking-") as folder:
        server = start_bare_server(Path(folder))
        try:
            for pace_ms in PACES_MS:
                model = f"t{options.tokens}-p{pace_ms}"
                pairs = [pair(server.address, model, options.streams) for _ in range(options.rounds)]
                ratio = statistics.median(ours / theirs for theirs, ours in pairs)
                tokens = options.streams * options.tokens
                medians = [f"{number(statistics.median(each) / tokens)} us" for each in zip(*pairs, strict=True)]
                rows.append([f"{pace_ms} ms", *medians, f"{ratio:.2f}"])
        finally:
            server.stop()
    print(table(["between tokens", "Client", "SyncClient", "ratio"], rows))


if __name__ == "__main__":
    main()
