"""The figures that the five documents ask for, measured in the browser's place at each product that is built.

python -m benchmarks.products [--short] [--only express] [--write-docs]    exit status 1 if a figure is missed

Each product runs as it would for users, with a Parley beside it: document 000 on PostgreSQL and Redis, the others on a
SQLite file. All of them, the upstream and the load share this machine's cores. A browser opens a connection for each
request.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import msgspec
import uvloop
from parley_server.store.migrate import migrate

from benchmarks import gauges
from benchmarks.faces import Visit, call
from benchmarks.report import number, table
from benchmarks.studies import keep
from benchmarks.systems import Upstream
from tests.products.backends import BUILT, NAMES, Product, started
from tests.services import PostgresServer, RedisServer

MODEL, TOKENS = "t100-p50", 100
STREAMS, RAMP_S, USERS, POLL_S = 100, 2.0, 10, 0.2
CONFIG = """
[providers.upstream]
kind = "openai"
base_url = "http://{address}/v1"
[models.chat]
provider = "upstream"
name = "{model}"
images = true
context_tokens = 128000
max_output_tokens = 16384
[server]
default_model = "chat"
"""
FIRST_TOKEN_MS, TOKEN_MS, POLL_MS, STORED_MS, TASK_BYTES = 1000.0, 100.0, 10.0, 100.0, 1_000_000


class Streams(msgspec.Struct, frozen=True, kw_only=True):
    """Streams at once through one product, of all runs together."""

    product: str
    streams: int
    runs: int
    first_token_p50_ms: float
    first_token_p99_ms: float
    late_p50_ms: float
    late_p99_ms: float
    stored_p50_ms: float
    stored_p99_ms: float
    backend_us_per_token: float
    faults: list[str]

    def missed(self) -> list[str]:
        """The figures that are not reached."""
        limits = {
            f"first token, p99 {number(self.first_token_p99_ms)} ms": self.first_token_p99_ms < FIRST_TOKEN_MS,
            f"a token is late by {number(self.late_p99_ms)} ms at p99": self.late_p99_ms < TOKEN_MS,
            f"stored {number(self.stored_p99_ms)} ms after the last token at p99": self.stored_p99_ms < STORED_MS,
            f"{len(self.faults)} streams not complete: {self.faults[:1]}": not self.faults,
        }
        return [f"{self.product}: {words}" for words, reached in limits.items() if not reached]


class Polls(msgspec.Struct, frozen=True, kw_only=True):
    """Users that poll at once, each every `POLL_S` seconds, and the Redis of their tasks."""

    users: int
    polls: int
    poll_p50_ms: float
    poll_p99_ms: float
    redis_bytes_per_task: int

    def missed(self) -> list[str]:
        """The figures that are not reached."""
        limits = {
            f"a poll takes {number(self.poll_p50_ms)} ms at the median": self.poll_p50_ms < POLL_MS,
            f"a task takes {self.redis_bytes_per_task:,} bytes of Redis": self.redis_bytes_per_task < TASK_BYTES,
        }
        return [f"spring-boot: {words}" for words, reached in limits.items() if not reached]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """All results; `left_out` has the products that are not built."""

    streams: list[Streams]
    polls: Polls | None
    left_out: list[str]

    def missed(self) -> list[str]:
        """The figures that are not reached."""
        own = [words for each in self.streams for words in each.missed()]
        return own + (self.polls.missed() if self.polls else [])


class Place:
    """A running product, and the Redis of its Parley if it has one."""

    def __init__(self, product: Product, redis: RedisServer | None) -> None:
        self.product = product
        self.redis = redis


@contextmanager
def place(name: str, folder: Path, upstream: Upstream) -> Iterator[Place]:
    """Start a product."""
    with ExitStack() as stack:
        environment, redis = {}, None
        if name == "spring-boot":
            postgres = stack.enter_context(PostgresServer(folder / "postgres", settings={"fsync": "on"}))
            redis = stack.enter_context(RedisServer(folder / "redis"))
            migrate(postgres.url())
            environment = {"PARLEY_DATABASE_URL": postgres.url(), "PARLEY_REDIS_URL": redis.url()}
        toml = CONFIG.format(address=upstream.address, model=MODEL)
        product = started(
            name,
            folder / "product",
            toml=toml,
            credentials=False,
            environment={"JAVA_TOOL_OPTIONS": ""} if name == "spring-boot" else None,
            parley_environment=environment,
        )
        yield Place(stack.enter_context(product), redis)


async def streams(product: Product, count: int, runs: int) -> Streams:
    """`count` users ask within `RAMP_S` seconds, so that all streams run at once, `runs` times after a warm-up."""
    await _ask(product, "warm-up", count // 2)
    cpu_s = gauges.cpu_s(product.backend.pid)
    done = [visit for run in range(runs) for visit in await _ask(product, f"run-{run}", count)]
    cpu_s = gauges.cpu_s(product.backend.pid) - cpu_s
    whole = [visit for visit in done if not visit.fault]
    first = [visit.transcript.first_token_us() for visit in whole]
    late = [each for visit in whole for each in visit.transcript.late_us()]
    stored = [visit.stored_after_us() for visit in whole]
    return Streams(
        product=product.name,
        streams=count,
        runs=runs,
        first_token_p50_ms=_ms(first, 0.5),
        first_token_p99_ms=_ms(first, 0.99),
        late_p50_ms=_ms(late, 0.5),
        late_p99_ms=_ms(late, 0.99),
        stored_p50_ms=_ms(stored, 0.5),
        stored_p99_ms=_ms(stored, 0.99),
        backend_us_per_token=cpu_s * 1e6 / max(1, len(late)),
        faults=[visit.fault for visit in done if visit.fault],
    )


async def _ask(product: Product, name: str, count: int) -> list[Visit]:
    """One answer for each of `count` users."""
    visits = [Visit(product, f"ada-{name}-{user}", TOKENS) for user in range(count)]

    async def later(position: int, visit: Visit) -> None:
        await asyncio.sleep(position * RAMP_S / count)
        await visit.run()

    await asyncio.gather(*(later(position, visit) for position, visit in enumerate(visits)))
    return visits


async def polls(found: Place, users: int) -> Polls:
    """`users` tasks at once, polled to their end."""
    assert found.redis is not None
    before = _used(found.redis)
    tasks = [await _task(found.product, f"ben-{user}") for user in range(users)]
    took = await asyncio.gather(*(_polled(found.product, user, task) for user, task in tasks))
    every = [each for one in took for each in one]
    return Polls(
        users=users,
        polls=len(every),
        poll_p50_ms=_ms(every, 0.5),
        poll_p99_ms=_ms(every, 0.99),
        redis_bytes_per_task=max(0, _used(found.redis) - before) // users,
    )


async def _task(product: Product, user: str) -> tuple[str, str]:
    body = {"content": "Hi"}
    answer = await call(product, user, "POST", f"/api/conversations/{user}/messages", body=body)
    return user, answer["task_id"]


async def _polled(product: Product, user: str, task: str) -> list[int]:
    """The times of the polls of one task, in microseconds."""
    took: list[int] = []
    while True:
        start = time.monotonic_ns()
        state = await call(product, user, "GET", f"/api/tasks/{task}")
        took.append((time.monotonic_ns() - start) // 1000)
        if state["status"] != "processing":
            return took
        await asyncio.sleep(POLL_S)


def _used(redis: RedisServer) -> int:
    return int(redis.command("INFO", "memory")["used_memory"])


def _ms(values: list[int], share: float) -> float:
    """A quantile in milliseconds; 0 without values."""
    if not values:
        return 0.0
    return (
        statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1] / 1e3
        if len(values) > 1
        else values[0] / 1e3
    )


def study(names: list[str], *, count: int, runs: int) -> Found:
    """Measure each product that is built, one after the other."""
    every: list[Streams] = []
    polled = None
    left_out = [f"{name}: not built (make clients)" for name in names if not BUILT[name]()]
    with closing(Upstream()) as upstream, tempfile.TemporaryDirectory(prefix="parley-products-") as folder:
        for name in (name for name in names if BUILT[name]()):
            with place(name, Path(folder) / name, upstream) as found:
                every.append(uvloop.run(streams(found.product, count, runs)))
                if found.redis is not None:
                    polled = uvloop.run(polls(found, USERS))
    return Found(streams=every, polls=polled, left_out=left_out)


def part(found: Found) -> str:
    """The section of docs/benchmarks.md."""
    wrong = [f"- **Missed**: {each}." for each in found.missed()] or ["All figures of the documents are reached."]
    wrong += [f"- Not measured: {each}." for each in found.left_out]
    head = [
        "product",
        "streams",
        "first token p50 / p99, ms",
        "late p50 / p99, ms",
        "stored p50 / p99, ms",
        "backend's CPU, us/token",
        "not complete",
    ]
    rows = [
        [
            each.product,
            f"{each.runs} x {each.streams}",
            f"{number(each.first_token_p50_ms)} / {number(each.first_token_p99_ms)}",
            f"{number(each.late_p50_ms)} / {number(each.late_p99_ms)}",
            f"{number(each.stored_p50_ms)} / {number(each.stored_p99_ms)}",
            number(each.backend_us_per_token),
            number(len(each.faults)),
        ]
        for each in found.streams
    ]
    out = ["\n".join(wrong), table(head, rows)]
    if found.polls is not None:
        out.append(
            f"Document 000, {found.polls.users} users that poll every {POLL_S:g} s: {found.polls.polls:,} polls of "
            f"{number(found.polls.poll_p50_ms)} ms at the median and {number(found.polls.poll_p99_ms)} ms at p99; "
            f"{found.polls.redis_bytes_per_task:,} bytes of Redis for a task of {TOKENS} tokens."
        )
    return "\n\n".join(out)


def main() -> int:
    """Exit status 1 if a figure is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="one run of each product")
    parser.add_argument("--only", choices=NAMES, help="this product alone")
    parser.add_argument("--streams", type=int, default=STREAMS, help="streams at once")
    parser.add_argument("--write-docs", action="store_true", help="write the part of docs/benchmarks.md")
    options = parser.parse_args()
    found = study(
        [options.only] if options.only else list(NAMES), count=options.streams, runs=1 if options.short else 3
    )
    keep("products", found, part(found), document=options.write_docs)
    return 1 if found.missed() else 0


if __name__ == "__main__":
    sys.exit(main())
