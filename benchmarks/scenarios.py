"""The scenarios, with their loads, systems and sizes, and the targets."""

from __future__ import annotations

from typing import Any

import msgspec

from benchmarks.load import Load

DIRECT = "direct"
PARLEY, POSTGRES, REDIS, FAR = "parley", "parley-postgres", "parley-redis", "parley-redis-far"
BARE, LITELLM, PORTKEY = "bare", "litellm", "portkey"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A system in a scenario, with the number of its runs in the full and in the short form.

    `load` has the fields in which its load differs: slower systems get fewer replies. A second entry of the same system
    needs a `name` and a `title`."""

    system: str
    name: str = ""
    title: str = ""
    full: int = 5
    short: int = 0
    load: dict[str, Any] = {}

    @property
    def key(self) -> str:
        """The name in the results."""
        return self.name or self.system

    def repeats(self, *, short: bool, requested: int) -> int:
        """The number of runs; a `requested` number replaces it unless one of them is 0."""
        own = self.short if short else self.full
        return requested if requested and own else own


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One load on several systems. `short` has the fields that differ in the short form.

    `fresh` restarts a system for each run, `idle_s` is the time for which the idle system is measured before the load,
    and `chart` is the metric of the chart."""

    name: str
    title: str
    load: dict[str, Any]
    short: dict[str, Any] = {}
    entries: tuple[Entry, ...]
    fresh: bool = False
    idle_s: float = 0.0
    chart: str = ""
    limit_s: float = 150.0

    def load_of(self, entry: Entry, *, short: bool, **where: Any) -> Load:
        """The load of an entry; `where` has the fields of the connection."""
        fields = self.load | (self.short if short else {}) | entry.load | where
        return msgspec.convert({"deadline_s": self.limit_s / 2} | fields, Load)


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A limit of `metric` of the system `subject`: `limit` (with `beyond_fsync`, plus the disk's fsync time). With
    `over`, `limit` times the metric of that system in the same run, or with `more`, `limit` above it."""

    scenario: str
    what: str
    metric: str
    unit: str
    limit: float
    subject: str = PARLEY
    beyond_fsync: bool = False
    over: str = ""
    more: bool = False


ONE_AND_TEN_READERS = (
    Entry(system=PARLEY, name="one-reader", title="Parley, one reader each", short=1, load={"readers": 1}),
    Entry(system=PARLEY, title="Parley, 10 readers each", short=1),
)
SCENARIOS = (
    Scenario(
        name="saturated",
        title="64 streams of 500 tokens, as fast as they go",
        load={"model": "t500-p0", "replies": 320, "concurrency": 64},
        short={"replies": 128},
        entries=(
            Entry(system=DIRECT, short=1),
            Entry(system=PARLEY, short=2),
            Entry(system=POSTGRES),
            Entry(system=REDIS, short=2),
            Entry(system=BARE, short=2),
            Entry(system=PORTKEY, short=1),
            Entry(system=LITELLM, full=3, short=1, load={"replies": 64, "warmup_replies": 40}),
        ),
        chart="cpu_us_per_token",
    ),
    Scenario(
        name="paced",
        title="100 streams of 500 tokens at 20 tokens/s",
        load={"model": "t500-p50", "replies": 100, "ramp_s": 1.0},
        short={"model": "t150-p50"},
        entries=(
            Entry(system=DIRECT, full=1),
            Entry(system=PARLEY, short=1),
            Entry(system=POSTGRES, full=3),
            Entry(system=REDIS, short=1),
            Entry(system=BARE, short=1),
            Entry(system=PORTKEY, full=2, short=1),
            Entry(system=LITELLM, full=3, short=1, load={"warmup_replies": 40}),
        ),
        chart="cpu_us_per_token",
        limit_s=300.0,
    ),
    Scenario(
        name="short",
        title="replies of 2 tokens, 16 callers",
        load={"model": "t2-p0", "replies": 2000, "concurrency": 16},
        short={"replies": 800},
        entries=(
            Entry(system=DIRECT, full=2),
            Entry(system=PARLEY, short=2),
            Entry(system=POSTGRES, full=3),
            Entry(system=REDIS, short=1),
            Entry(system=BARE, short=1),
            Entry(system=PORTKEY, full=3, short=1),
            Entry(system=LITELLM, short=2, load={"replies": 192, "warmup_replies": 40}),
        ),
        chart="cpu_ms_per_reply",
    ),
    Scenario(
        name="single",
        title="one stream at a time, 64 deltas 20 ms apart",
        load={"model": "t64-p20", "replies": 6, "concurrency": 1, "channels": 1, "warmup_replies": 40},
        short={"replies": 4},
        entries=(
            Entry(system=DIRECT, short=1),
            Entry(system=PARLEY, short=1),
            Entry(system=REDIS, full=3),
            Entry(system=BARE),
            Entry(system=PORTKEY, full=3),
            Entry(system=LITELLM, short=1),
        ),
    ),
    Scenario(
        name="many",
        title="1,000 streams at 5 tokens/s, started over 10 s",
        load={"model": "t60-p200", "replies": 1000, "ramp_s": 10.0, "warmup_concurrency": 1},
        entries=(
            Entry(system=DIRECT, full=1),
            Entry(system=PARLEY, short=1),
            Entry(
                system=PARLEY, name="parley-10", title="Parley, 10 streams", full=3, load={"replies": 10, "ramp_s": 1.0}
            ),
            Entry(
                system=PARLEY,
                name="parley-100",
                title="Parley, 100 streams",
                full=3,
                load={"replies": 100, "ramp_s": 2.0},
            ),
            Entry(system=BARE, full=1),
        ),
        fresh=True,
        idle_s=2.0,
    ),
    Scenario(
        name="burst",
        title="2,000 calls at the same instant, 2 tokens each",
        load={"model": "t2-p0", "replies": 2000},
        entries=(Entry(system=PARLEY, short=1), Entry(system=REDIS), Entry(system=BARE)),
    ),
    Scenario(
        name="readers",
        title="50 replies of 100 tokens at 20 tokens/s, each with 10 readers",
        load={"model": "t100-p50", "replies": 50, "ramp_s": 1.0, "channels": 10, "readers": 10},
        entries=ONE_AND_TEN_READERS,
    ),
    Scenario(
        name="readers-fast",
        title="50 replies of 500 tokens, as fast as they go, each with 10 readers",
        load={"model": "t500-p0", "replies": 50, "channels": 10, "readers": 10},
        entries=ONE_AND_TEN_READERS,
    ),
    Scenario(
        name="far",
        title="one stream at a time, beside a Redis whose answers take 200 ms",
        load={"model": "t5-p20", "replies": 30, "concurrency": 1, "channels": 1, "warmup_replies": 40},
        entries=(Entry(system=REDIS, short=1), Entry(system=FAR, short=1)),
    ),
    Scenario(
        name="idle",
        title="1,000 streams that wait for the first token of their model",
        load={"model": "t2-p0-f6000", "replies": 1000, "ramp_s": 4.0, "warmup_concurrency": 1, "tell_accepted": True},
        entries=(Entry(system=PARLEY, full=3, short=1), Entry(system=REDIS, full=2), Entry(system=BARE, full=2)),
        fresh=True,
    ),
)

SATURATED, PACED, SHORT, SINGLE, MANY, BURST, READERS, READERS_FAST, DISTANT, IDLE = (one.name for one in SCENARIOS)
PER_TOKEN: dict[str, Any] = {"what": "CPU per token", "metric": "cpu_us_per_token"}
PER_REPLY: dict[str, Any] = {"what": "CPU per reply", "metric": "cpu_ms_per_reply"}
FIRST_TOKEN: dict[str, Any] = {"what": "added first-token time, p50", "metric": "added_first_token_p50_ms"}

TARGETS = (
    Target(scenario=SATURATED, **PER_TOKEN, unit="x", limit=0.3, over=BARE),
    Target(scenario=SATURATED, **PER_TOKEN, unit="x", limit=1 / 80, over=LITELLM),
    Target(scenario=SATURATED, **PER_TOKEN, unit="x", limit=1.5, subject=REDIS, over=POSTGRES),
    Target(scenario=PACED, **PER_TOKEN, unit="x", limit=1.7, over=BARE),
    Target(scenario=PACED, **PER_TOKEN, unit="x", limit=1 / 6, over=LITELLM),
    Target(scenario=PACED, what="tokens late by, p99.9", metric="late_p999_ms", unit="ms", limit=100),
    Target(scenario=PACED, **PER_TOKEN, unit="x", limit=1.5, subject=REDIS, over=POSTGRES),
    Target(scenario=SHORT, **PER_REPLY, unit="x", limit=1 / 5, over=LITELLM),
    Target(scenario=SINGLE, **FIRST_TOKEN, unit="ms", limit=3.5, beyond_fsync=True),
    Target(scenario=SINGLE, **FIRST_TOKEN, unit="x", limit=1 / 3, over=LITELLM),
    Target(scenario=SINGLE, what="added gap per token, p50", metric="gap_change_p50_ms", unit="ms", limit=0.1),
    Target(scenario=MANY, what="streams not complete", metric="incomplete", unit="streams", limit=0),
    Target(scenario=MANY, what="first token, p99", metric="first_token_p99_ms", unit="ms", limit=1000),
    Target(scenario=MANY, what="resident memory, peak", metric="peak_mib", unit="MiB", limit=300),
    Target(
        scenario=MANY,
        what="CPU per token, growth",
        metric="net_cpu_us_per_token",
        unit="x",
        limit=1.15,
        over="parley-10",
    ),
    Target(
        scenario=MANY, what="memory per stream, growth", metric="kib_per_stream", unit="x", limit=1.15, over="parley-10"
    ),
    Target(scenario=BURST, what="calls shed by the transport", metric="shed", unit="calls", limit=0),
    Target(scenario=BURST, what="calls accepted, but not complete", metric="faults", unit="calls", limit=0),
    Target(scenario=READERS, **PER_REPLY, unit="x", limit=3, over="one-reader"),
    Target(scenario=READERS_FAST, **PER_REPLY, unit="x", limit=3, over="one-reader"),
    Target(
        scenario=DISTANT,
        what="first token, p50",
        metric="first_token_p50_ms",
        unit="ms",
        limit=5,
        subject=FAR,
        over=REDIS,
        more=True,
    ),
    Target(scenario=IDLE, what="memory per stream", metric="kib_per_stream", unit="KiB", limit=60),
)
