"""Prometheus metrics in their own registry. No label contains an end user, a tenant or an id."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from parley_server import __version__
from parley_server.core.model import Model, Reply, Usage
from parley_server.core.observer import AttemptEnded, CallEnded
from parley_server.errors import Reason
from parley_server.telemetry.genai_metrics import GenAiMetrics
from parley_server.telemetry.logs import end_reason, event_of
from parley_server.telemetry.series import Labelled, exemplar

_FIRST_TOKEN_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 30, 60, 120)
_REPLY_S = (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800)
_OVERHEAD_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
_LAG_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
_CALL_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30, 120, 600)
_AUTH_S = (0.00001, 0.00003, 0.0001, 0.0003, 0.001, 0.01, 0.1, 1, 5)
_ESTIMATE_RATIO = (0.5, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10)
_LENGTH = (0, 100, 500, 1_000, 5_000, 10_000, 50_000, 100_000, 500_000)

# Prometheus sees no increase from a series that does not exist to its first value. These values of labels, which alerts
# watch (deploy/observability/alerts.yaml), therefore exist with 0 from the start.
_REFUSALS: Final = (Reason.OVERLOADED, Reason.STORAGE_UNAVAILABLE)
_SUMMARIES: Final = ("stored", "skipped", "failed", "timeout", "cancelled", "erased")
_REFRESHES: Final = ("ok", "failed")
_SPANS: Final = ("exported", "failed", "dropped")
_LOG_LINES: Final = (
    ("error", "call"),
    ("error", "reply"),
    ("error", "provider_attempt"),
    ("error", "provider_keys_ignored"),
    ("error", "retention_failed"),
    ("warning", "retention_postponed"),
    ("warning", "checkpoints_delayed"),
    ("warning", "finalisation_postponed"),
    ("warning", "lease_renewal_postponed"),
    ("warning", "prompt_cut_by_provider"),
    ("warning", "certificate_reload_failed"),
    ("warning", "api_key_reload_failed"),
)


class _CertificateEnds(Collector):
    """The ends of validity of the server's certificate and of its clients' CA, read at each scrape."""

    def __init__(self, ends_s: Callable[[], Mapping[str, float]]) -> None:
        self._ends_s = ends_s

    def collect(self) -> Iterator[Metric]:
        ends = GaugeMetricFamily(
            "parley_certificate_end_timestamp_seconds",
            "When a file of [tls] that is in use ends to be valid, as Unix time.",
            labels=["file"],
        )
        for name, end_s in self._ends_s().items():
            ends.add_metric([name], end_s)
        yield ends


class _Retirements(Collector):
    """The times at which vendors turn models off, read from the catalog at each scrape."""

    def __init__(self, models: Callable[[], Iterable[Model]]) -> None:
        self._models = models

    def collect(self) -> Iterator[Metric]:
        times = GaugeMetricFamily(
            "parley_model_retire_timestamp_seconds",
            "When the vendor turns the model off, as Unix time; only models of which that is known.",
            labels=["model"],
        )
        for model in self._models():
            if model.retire_time_us:
                times.add_metric([model.alias], model.retire_time_us / 1e6)
        yield times


class _LogLineCounter(logging.Handler):
    """Counts the lines of level warning and above, by level and event."""

    def __init__(self, lines: Counter) -> None:
        super().__init__(logging.WARNING)
        self._lines = Labelled(lines.labels)
        for labels in _LOG_LINES:
            self._lines.of(*labels)

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.of(record.levelname.lower(), event_of(record)).inc()


class Metrics:
    """Counts events; no method waits or raises. An endpoint serves `registry`. As a handler of the root logger,
    `log_line_counter` counts log lines.

    `genai_metrics`: also count attempts under the names of the GenAI conventions."""

    def __init__(self, *, genai_metrics: bool = False) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self._bind_replies(registry)
        self._bind_usage(registry)
        self._bind_calls(registry)
        self._bind_access(registry)
        self._bind_providers(registry)
        build = Gauge("parley_build_info", "1; the label is the release.", ("version",), registry=registry)
        build.labels(__version__).set(1)
        self._bind_configuration(registry)
        self._genai = GenAiMetrics(registry) if genai_metrics else None
        spans = Counter("parley_trace_spans_total", "Spans of traces that ended.", ("outcome",), registry=registry)
        self._spans = Labelled(spans.labels)
        for outcome in _SPANS:
            self._spans.of(outcome)
        self._lease = Gauge(
            "parley_lease_held", "1 while this replica may show text of its replies.", registry=registry
        )
        self._lease.set(1)
        self._taken_over = Counter(
            "parley_replies_taken_over_total", "Replies of dead replicas that this one ended.", registry=registry
        )
        self._lag = Histogram("parley_loop_lag_seconds", "Delay of the event loop.", buckets=_LAG_S, registry=registry)
        self._utilisation = Gauge(
            "parley_loop_utilisation", "Share of time that the event loop is busy, 0 to 1.", registry=registry
        )
        self._tasks = Gauge("parley_loop_tasks", "Tasks of the event loop that have not ended.", registry=registry)
        lines = Counter(
            "parley_log_lines_total", "Log lines of level warning and above.", ("level", "event"), registry=registry
        )
        self.log_line_counter: logging.Handler = _LogLineCounter(lines)

    def _bind_replies(self, registry: CollectorRegistry) -> None:
        model = ("model",)
        ended = Counter("parley_replies_total", "Replies that ended.", ("state", "reason", "model"), registry=registry)
        self._ended = Labelled(ended.labels)
        self._active = Gauge("parley_replies_active", "Running replies.", registry=registry)
        self._readers = Gauge("parley_readers_active", "Readers that follow a reply.", registry=registry)
        first_token = Histogram(
            "parley_first_token_seconds",
            "From acceptance to the first content.",
            model,
            buckets=_FIRST_TOKEN_S,
            registry=registry,
        )
        self._first_token = Labelled(first_token.labels)
        duration = Histogram(
            "parley_reply_duration_seconds",
            "From acceptance to the end.",
            ("state",),
            buckets=_REPLY_S,
            registry=registry,
        )
        self._duration = Labelled(duration.labels)
        length = Histogram(
            "parley_reply_text_characters",
            "Length of the text when the reply ended.",
            ("state",),
            buckets=_LENGTH,
            registry=registry,
        )
        self._length = Labelled(length.labels)
        self._overhead = Histogram(
            "parley_reply_overhead_seconds",
            "Time that the engine itself spends on a reply, without waits for the provider.",
            buckets=_OVERHEAD_S,
            registry=registry,
        )
        summaries = Counter(
            "parley_summaries_total", "Summaries of conversations that ended.", ("outcome",), registry=registry
        )
        self._summaries = Labelled(summaries.labels)
        for outcome in _SUMMARIES:
            self._summaries.of(outcome)
        kept = Counter(
            "parley_kept_total",
            "Replies with items that a provider requires back.",
            ("outcome",),
            registry=registry,
        )
        self._kept = Labelled(kept.labels)
        erased = Counter(
            "parley_erased_conversations_total", "Conversations that were erased.", ("cause",), registry=registry
        )
        self._erased = Labelled(erased.labels)

    def _bind_usage(self, registry: CollectorRegistry) -> None:
        tokens = Counter("parley_tokens_total", "Tokens used.", ("kind", "model"), registry=registry)
        self._tokens = Labelled(tokens.labels)
        self._estimate_ratio = Histogram(
            "parley_prompt_estimate_ratio",
            "Estimated tokens of a prompt divided by the provider's count.",
            buckets=_ESTIMATE_RATIO,
            registry=registry,
        )
        self._unrolled = Gauge(
            "parley_usage_unrolled", "Rows of usage that are not in the sums by day yet.", registry=registry
        )
        cost = Counter(
            "parley_cost_usd_total", "Cost in US dollars, where prices are known.", ("model",), registry=registry
        )
        self._cost = Labelled(cost.labels)

    def _bind_calls(self, registry: CollectorRegistry) -> None:
        refusals = Counter("parley_refusals_total", "Requests refused.", ("reason",), registry=registry)
        self._refusals = Labelled(refusals.labels)
        for reason in _REFUSALS:
            self._refusals.of(reason.value)
        calls = Counter("parley_calls_total", "Calls by method and status.", ("method", "code"), registry=registry)
        self._calls = Labelled(calls.labels)
        call_duration = Histogram(
            "parley_call_duration_seconds", "Duration of calls.", ("method",), buckets=_CALL_S, registry=registry
        )
        self._call_duration = Labelled(call_duration.labels)
        self._resumes = Counter(
            "parley_resumes_total", "Readers that resumed a reply with ResumeReply.", registry=registry
        )
        self._go_away = Counter(
            "parley_go_away_total", "Readers asked to reconnect to another replica.", registry=registry
        )

    def _bind_access(self, registry: CollectorRegistry) -> None:
        counted = Counter(
            "parley_limiter_calls_total", "Messages counted against their limit.", ("outcome",), registry=registry
        )
        self._counted = Labelled(counted.labels)
        exceeded = Counter(
            "parley_quota_refusals_total", "Requests refused for a quota.", ("limit",), registry=registry
        )
        self._quota_refusals = Labelled(exceeded.labels)
        failures = Counter("parley_auth_failures_total", "Refused credentials.", ("cause",), registry=registry)
        self._auth_failures = Labelled(failures.labels)
        self._auth = Histogram("parley_auth_seconds", "Time to identify a caller.", buckets=_AUTH_S, registry=registry)
        refreshes = Counter(
            "parley_jwks_refreshes_total", "Reads of issuers' public keys.", ("outcome",), registry=registry
        )
        self._jwks_refreshes = Labelled(refreshes.labels)
        for outcome in _REFRESHES:
            self._jwks_refreshes.of(outcome)

    def _bind_providers(self, registry: CollectorRegistry) -> None:
        attempts = Counter(
            "parley_provider_attempts_total", "Requests to providers.", ("provider", "outcome"), registry=registry
        )
        self._attempts = Labelled(attempts.labels)
        retries = Counter(
            "parley_provider_retries_total",
            "Repeated requests for the same reply to the same model.",
            ("provider", "reason"),
            registry=registry,
        )
        self._retries = Labelled(retries.labels)
        failovers = Counter(
            "parley_failovers_total",
            "Replies that asked another model instead.",
            ("from", "to", "reason"),
            registry=registry,
        )
        self._failovers = Labelled(failovers.labels)
        self._keys_unreadable = Gauge(
            "parley_provider_keys_unreadable", "Stored provider keys that cannot be decrypted.", registry=registry
        )
        breaker = Gauge(
            "parley_breaker_open",
            "1 while a model is not asked, or only probed, after failures.",
            ("provider", "model"),
            registry=registry,
        )
        self._breaker = Labelled(breaker.labels)
        oddities = Counter(
            "parley_provider_oddities_total",
            "Parts of providers' answers that were dropped.",
            ("provider", "kind"),
            registry=registry,
        )
        self._oddities = Labelled(oddities.labels)

    def _bind_configuration(self, registry: CollectorRegistry) -> None:
        reloads = Counter(
            "parley_config_reloads_total", "Changed or requested configurations.", ("outcome",), registry=registry
        )
        self._reloads = Labelled(reloads.labels)
        self._config_loaded = Gauge(
            "parley_config_loaded_timestamp_seconds",
            "When the configuration was last read without a fault.",
            registry=registry,
        )
        self._config_faulty = Gauge(
            "parley_config_faulty", "1 while the last configuration that was read has a fault.", registry=registry
        )
        self._config_waiting = Gauge(
            "parley_config_waiting_keys",
            "Keys of the configuration that was read last that need a restart.",
            registry=registry,
        )

    # --- replies

    def reply_started(self) -> None:
        self._active.inc()

    def reply_ended(self, reply: Reply, *, overhead_s: float, text_length: int) -> None:
        self._active.dec()
        state, model = reply.state.value, reply.model
        self._ended.of(state, end_reason(reply), model).inc()
        # The wall clock may have been set back during the reply.
        self._duration.of(state).observe(max(0, reply.end_time_us - reply.create_time_us) / 1e6, exemplar())
        self._length.of(state).observe(text_length)
        self._overhead.observe(overhead_s)
        if reply.usage is not None:
            self._count_usage(reply.usage, model)

    def _count_usage(self, usage: Usage, model: str) -> None:
        counts = (
            ("prompt", usage.prompt_tokens),
            ("cached_prompt", usage.cached_prompt_tokens),
            ("completion", usage.completion_tokens),
            ("reasoning", usage.reasoning_tokens),
        )
        for kind, count in counts:
            if count > 0:  # no series without tokens; a counter would raise for a negative number
                self._tokens.of(kind, model).inc(count)
        if usage.cost_nano_usd:
            self._cost.of(model).inc(usage.cost_nano_usd / 1e9)

    def items_kept(self, outcome: str) -> None:
        self._kept.of(outcome).inc()

    def reader_joined(self) -> None:
        self._readers.inc()

    def reader_left(self) -> None:
        self._readers.dec()

    def first_token(self, seconds: float, model: str) -> None:
        self._first_token.of(model).observe(seconds, exemplar())

    def refused(self, reason: Reason) -> None:
        self._refusals.of(reason.value).inc()

    def quota_exceeded(self, limit: str) -> None:
        self._quota_refusals.of(limit).inc()

    def prompt_counted(self, ratio: float) -> None:
        self._estimate_ratio.observe(ratio)

    def summarized(self, outcome: str) -> None:
        self._summaries.of(outcome).inc()

    # --- replicas

    def message_counted(self, outcome: str) -> None:
        self._counted.of(outcome).inc()

    def fenced(self, fenced: bool) -> None:
        self._lease.set(0 if fenced else 1)

    def reply_taken_over(self) -> None:
        self._taken_over.inc()

    def watch_relay(self, lost_s: Callable[[], float], followed: Callable[[], int]) -> None:
        """Call these functions at each scrape: seconds since the relay stopped working, and the number of followed
        replies."""
        lost = Gauge(
            "parley_relay_lost_seconds",
            "Time since the relay stopped working; 0 while it works.",
            registry=self.registry,
        )
        lost.set_function(lost_s)
        replies = Gauge(
            "parley_replies_followed", "Replies of other replicas that have readers here.", registry=self.registry
        )
        replies.set_function(followed)

    def watch_models(self, models: Callable[[], Iterable[Model]]) -> None:
        """Call this function at each scrape, in the endpoint's thread, for the configured models."""
        self.registry.register(_Retirements(models))

    def watch_certificates(self, ends_s: Callable[[], Mapping[str, float]]) -> None:
        """Call this function at each scrape, in the endpoint's thread, for the ends of validity, by file."""
        self.registry.register(_CertificateEnds(ends_s))

    # --- calls and providers

    def call_ended(self, call: CallEnded) -> None:
        self._calls.of(call.method, call.code).inc()
        self._call_duration.of(call.method).observe(call.duration_s, exemplar())

    def authenticated(self, seconds: float) -> None:
        self._auth.observe(seconds)

    def auth_failed(self, cause: str) -> None:
        self._auth_failures.of(cause).inc()

    def jwks_refreshed(self, outcome: str) -> None:
        self._jwks_refreshes.of(outcome).inc()

    def usage_unrolled(self, count: int) -> None:
        self._unrolled.set(count)

    def conversations_erased(self, cause: str, count: int) -> None:
        self._erased.of(cause).inc(count)

    def provider_keys_unreadable(self, count: int) -> None:
        self._keys_unreadable.set(count)

    def resumed(self) -> None:
        self._resumes.inc()

    def went_away(self) -> None:
        self._go_away.inc()

    def provider_attempt(self, attempt: AttemptEnded) -> None:
        self._attempts.of(attempt.model.provider, attempt.outcome).inc()
        if self._genai is not None:
            self._genai.count(attempt)

    def provider_retried(self, provider: str, reason: str) -> None:
        self._retries.of(provider, reason).inc()

    def failed_over(self, source: str, target: str, reason: str) -> None:
        self._failovers.of(source, target, reason).inc()

    def breaker_changed(self, provider: str, model: str, *, is_open: bool) -> None:
        self._breaker.of(provider, model).set(1 if is_open else 0)

    def provider_oddity(self, provider: str, kind: str) -> None:
        self._oddities.of(provider, kind).inc()

    # --- the configuration

    def configuration_loaded(self, now_us: int, *, waiting: int) -> None:
        self._config_loaded.set(now_us / 1e6)
        self._config_waiting.set(waiting)
        self._config_faulty.set(0)

    def configuration_reloaded(self, outcome: str) -> None:
        self._reloads.of(outcome).inc()
        if outcome == "faulty":
            self._config_faulty.set(1)

    # --- traces

    def spans_counted(self, outcome: str, count: int) -> None:
        """Count spans by what became of them: "exported", "failed" (the collector did not take them) or "dropped" (too
        many waited). Called in several threads."""
        self._spans.of(outcome).inc(count)

    # --- the loop

    def loop_sampled(self, *, lag_s: float, utilisation: float) -> None:
        """Record a sample of the event loop: seconds of delay, and the share of time that it was busy, 0 to 1."""
        self._lag.observe(lag_s)
        self._utilisation.set(utilisation)

    def tasks_counted(self, tasks: int) -> None:
        """Record the number of tasks of the event loop."""
        self._tasks.set(tasks)
