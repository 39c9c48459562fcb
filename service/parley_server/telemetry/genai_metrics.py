"""The metrics of the GenAI conventions of OpenTelemetry, in Prometheus' form of their names."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from parley_server.core.observer import AttemptEnded
from parley_server.telemetry import genai
from parley_server.telemetry.series import Labelled, exemplar


class GenAiMetrics:
    """The metrics of the GenAI conventions for clients, in Prometheus' form of their names."""

    # `time_per_output_chunk` is missing: one value for each chunk would cost more than all else of a token.

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = tuple(map(genai.prometheus_name, (genai.OPERATION, genai.PROVIDER, genai.REQUEST_MODEL)))
        duration = Histogram(
            genai.prometheus_name(genai.DURATION) + "_seconds",
            "Duration of a request to a model, until its answer is complete.",
            (*labels, genai.prometheus_name(genai.ERROR_TYPE)),
            buckets=genai.SECONDS,
            registry=registry,
        )
        self._duration = Labelled(duration.labels)
        first_chunk = Histogram(
            genai.prometheus_name(genai.TIME_TO_FIRST_CHUNK) + "_seconds",
            "From a request to a model to its first content.",
            labels,
            buckets=genai.SECONDS,
            registry=registry,
        )
        self._first_chunk = Labelled(first_chunk.labels)
        tokens = {
            genai.USAGE_INPUT: "Tokens of prompts.",
            genai.USAGE_OUTPUT: "Tokens of answers.",
            genai.USAGE_CACHE_READ: "Tokens of prompts that the provider had cached.",
            genai.USAGE_CACHE_WRITE: "Tokens of prompts that the provider has cached.",
            genai.USAGE_REASONING: "Tokens of answers that are reasoning.",
        }
        self._tokens = {
            name: Labelled(Counter(genai.prometheus_name(name), text, labels, registry=registry).labels)
            for name, text in tokens.items()
        }

    def count(self, attempt: AttemptEnded) -> None:
        """Count a request that has ended."""
        labels = (genai.CHAT, attempt.target.system, attempt.model.name)
        error = "" if attempt.outcome == "OK" else attempt.outcome
        example = exemplar()
        self._duration.of(*labels, error).observe(attempt.duration_s, example)
        if attempt.first_content_s is not None:
            self._first_chunk.of(*labels).observe(attempt.first_content_s, example)
        if (usage := attempt.usage) is None:
            return
        counts = (
            (genai.USAGE_INPUT, usage.prompt_tokens),
            (genai.USAGE_OUTPUT, usage.completion_tokens),
            (genai.USAGE_CACHE_READ, usage.cached_prompt_tokens),
            (genai.USAGE_CACHE_WRITE, usage.cache_write_prompt_tokens),
            (genai.USAGE_REASONING, usage.reasoning_tokens),
        )
        for name, count in counts:
            if count > 0:
                self._tokens[name].of(*labels).inc(count)
