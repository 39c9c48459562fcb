"""What is measured and what must be reached: the loads, their sizes, and the figures, as data."""

from __future__ import annotations

import msgspec

from benchmarks.load import Load


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """One load, in a full and a short size. `direct` also runs it straight against the upstream."""

    name: str
    title: str
    model: str
    replies: int
    short_replies: int
    concurrency: int = 0
    ramp_s: float = 0.0
    channels: int = 4
    warmup_replies: int = 100
    full_repeats: int = 5
    short_repeats: int = 3
    direct: bool = True
    short_direct: bool = True
    limit_s: float = 120.0

    def load(self, address: str, *, transport: str, short: bool) -> Load:
        """The load that this scenario puts on `address`."""
        return msgspec.convert(
            {
                "transport": transport,
                "address": address,
                "model": self.model,
                "replies": self.short_replies if short else self.replies,
                "concurrency": self.concurrency,
                "ramp_s": self.ramp_s,
                "channels": self.channels,
                "warmup_replies": self.warmup_replies,
                "deadline_s": self.limit_s / 2,
            },
            Load,
        )

    def repeats(self, *, short: bool, wished: int) -> int:
        """How often to run it; `wished` wins where it is set."""
        return wished or (self.short_repeats if short else self.full_repeats)


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A figure to reach: `metric` of Parley at most `limit`, plus the disk's fsync, or times that of `over`."""

    scenario: str
    what: str
    metric: str
    unit: str
    limit: float
    beyond_fsync: bool = False
    over: str = ""


SCENARIOS = [
    Scenario(
        name="saturated",
        title="64 streams of 500 tokens, as fast as they go",
        model="t500-p0",
        replies=320,
        short_replies=128,
        concurrency=64,
    ),
    Scenario(
        name="paced",
        title="100 streams of 500 tokens at 20 tokens/s",
        model="t500-p50",
        replies=100,
        short_replies=100,
        ramp_s=1.0,
        short_repeats=2,
        short_direct=False,
    ),
    Scenario(
        name="short",
        title="replies of 2 tokens, 16 callers",
        model="t2-p0",
        replies=2000,
        short_replies=800,
        concurrency=16,
    ),
    Scenario(
        name="single",
        title="one stream at a time, 64 deltas 20 ms apart",
        model="t64-p20",
        replies=12,
        short_replies=5,
        concurrency=1,
        channels=1,
    ),
    Scenario(
        name="many",
        title="1,000 streams at 5 tokens/s, started over 10 s",
        model="t60-p200",
        replies=1000,
        short_replies=1000,
        ramp_s=10.0,
        short_repeats=1,
        short_direct=False,
    ),
    Scenario(
        name="burst",
        title="2,000 calls at the same instant, 2 tokens each",
        model="t2-p0",
        replies=2000,
        short_replies=2000,
        short_repeats=1,
        direct=False,
    ),
]

SATURATED, PACED, SHORT, SINGLE, MANY, BURST = (scenario.name for scenario in SCENARIOS)

TARGETS = [
    Target(scenario=SATURATED, what="CPU per token", metric="cpu_us_per_token", unit="us", limit=8),
    Target(
        scenario=SATURATED, what="CPU per token", metric="cpu_us_per_token", unit="x", limit=1 / 100, over="litellm"
    ),
    Target(scenario=PACED, what="CPU per token", metric="cpu_us_per_token", unit="us", limit=70),
    Target(scenario=PACED, what="CPU per token", metric="cpu_us_per_token", unit="x", limit=1 / 15, over="litellm"),
    Target(scenario=PACED, what="tokens late by, p99.9", metric="late_p999_ms", unit="ms", limit=100),
    Target(scenario=SHORT, what="CPU per reply", metric="cpu_ms_per_reply", unit="ms", limit=3.5),
    Target(scenario=SHORT, what="CPU per reply", metric="cpu_ms_per_reply", unit="x", limit=1 / 8, over="litellm"),
    Target(
        scenario=SINGLE,
        what="added first-token time, p50",
        metric="added_first_token_p50_ms",
        unit="ms",
        limit=3,
        beyond_fsync=True,
    ),
    Target(
        scenario=SINGLE,
        what="added first-token time, p50",
        metric="added_first_token_p50_ms",
        unit="x",
        limit=1 / 4,
        over="litellm",
    ),
    Target(scenario=SINGLE, what="added gap per token, p50", metric="gap_change_p50_ms", unit="ms", limit=0.1),
    Target(scenario=MANY, what="streams not complete", metric="incomplete", unit="streams", limit=0),
    Target(scenario=MANY, what="first token, p99", metric="first_token_p99_ms", unit="ms", limit=1000),
    Target(scenario=MANY, what="resident memory, peak", metric="peak_mib", unit="MiB", limit=300),
    Target(scenario=BURST, what="calls shed by the transport", metric="shed", unit="calls", limit=0),
    Target(scenario=BURST, what="calls accepted, but not complete", metric="faults", unit="calls", limit=0),
]
