"""The folder of recorded answers of vendors: where it is, what it must hold, and the dialect of each answer.

It is no part of this repository. Its layout: a folder per vendor with bodies of streams (`*.sse`), bodies of refusals
(`*.http404.json`), other bodies of one JSON document (`*.json`), and what is known of the exchange (`*.meta.json`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "PARLEY_RECORDINGS"
"""The environment variable that names the folder."""
ANSWERS = 549
"""Streams, refusals and other answers of all vendors together."""
STREAMS = {
    "alibaba": ("chat", 3),
    "anthropic": ("messages", 99),
    "azure": ("chat", 21),
    "azure-responses": ("responses", 7),
    "bedrock-mantle": ("responses", 3),
    "crusoe": ("chat", 1),
    "deepseek": ("chat", 8),
    "gemini": ("gemini", 30),
    "groq": ("chat", 12),
    "huggingface": ("chat", 2),
    "lmstudio-responses": ("responses", 3),
    "mistral": ("chat", 14),
    "moonshot": ("chat", 1),
    "openai": ("chat", 148),
    "openai-compatible": ("chat", 1),
    "openai-responses": ("responses", 86),
    "openrouter": ("chat", 13),
    "perplexity": ("chat", 2),
    "snowflake": ("chat", 2),
    "vertex": ("gemini", 23),
    "xai": ("chat", 2),
    "xai-responses": ("responses", 6),
    "zai": ("chat", 1),
}
"""The dialect of each vendor and the number of its streams; `OTHERS` have another dialect."""

OTHERS = {
    "azure-responses/vercelai-azure-deepseek-reasoning.1": "chat",
    "deepseek/pydanticai-deepseek_responses--deepseek_responses_function_tool_stream_.0": "responses",
    "deepseek/pydanticai-deepseek_responses--deepseek_responses_function_tool_stream_.1": "responses",
    "deepseek/pydanticai-deepseek_responses"
    "--deepseek_responses_rejects_interleaved_function_calls.0.http400.json": "responses",
    "openrouter/llm-openrouter-llm_openrouter--image_prompt.1": "responses",
    "openrouter/llm-openrouter-llm_openrouter--prompt.1": "responses",
    "openrouter/llm-openrouter-llm_openrouter--reasoning.1": "responses",
    "openrouter/llm-openrouter-llm_openrouter--tool_calls.1": "responses",
    "openrouter/llm-openrouter-llm_openrouter--tool_calls.2": "responses",
    "openrouter/pydanticai-openai_responses--openai_responses_raw_cot_stream_openrouter.0": "responses",
}
"""The dialect of answers of another one than their vendor's."""

_COMPLETIONS = "openai/openllmetry-completions--"
_FINISH_REASONS = "openai/openllmetry-finish_reasons--TestCompletionsFinishReasons."
_UNREAD = {
    "Google's Interactions API, which is another one than generateContent": (
        "gemini/openinference-interactions_instrumentation--generate_interactions_async_True_.0",
        "gemini/openinference-interactions_instrumentation--generate_interactions_simple_message_True_.0",
    ),
    "a brace is missing in its JSON": ("openai-responses/vercelai-parallel-tool-call-wrapper.1",),
    "legacy completions (/v1/completions): a prompt without messages, which Parley does not send": (
        f"{_COMPLETIONS}async_completion_streaming.0",
        f"{_COMPLETIONS}async_completion_streaming.1",
        f"{_COMPLETIONS}async_completion_streaming.2",
        f"{_COMPLETIONS}async_completion_streaming_with_events_with_content.1",
        f"{_COMPLETIONS}async_completion_streaming_with_events_with_no_content.0",
        f"{_COMPLETIONS}async_completion_streaming_with_events_with_no_content.2",
        f"{_COMPLETIONS}completion_streaming_with_events_with_content.1",
        f"{_COMPLETIONS}completion_streaming_with_events_with_content.2",
        f"{_COMPLETIONS}completion_streaming_with_events_with_no_content.0",
        f"{_COMPLETIONS}completion_streaming_with_events_with_no_content.1",
        f"{_COMPLETIONS}completion_streaming_with_events_with_no_content.2",
        f"{_FINISH_REASONS}async_completions_streaming_sets_top_level_finish_reasons.0",
        f"{_FINISH_REASONS}completions_streaming_sets_top_level_finish_reasons.0",
        "openai/vercelai-openai-completion-text",
    ),
    "embeddings, which Parley does not request": (
        "gemini/pydanticai-embeddings--TestGoogle.embed_error.0.http404.json",
        "openai/pydanticai-embeddings--TestOpenAI.embed_error.0.http404.json",
    ),
    "a request to count tokens, which Parley does not send": (
        "anthropic/pydanticai-anthropic--anthropic_count_tokens_error.0.http404.json",
    ),
}
UNREAD = {name: reason for reason, names in _UNREAD.items() for name in names}
"""Answers that no dialect of Parley reads, with the reason."""


def recordings(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The folder that the environment names; None where it names none."""
    named = environment.get(VARIABLE)
    return Path(named) if named else None


def streams_of(folder: Path, dialect: str) -> dict[str, Path]:
    """The streams that this dialect reads, by `vendor/name`."""
    return _read_by(dialect, _files(folder, "*.sse"))


def documents_of(folder: Path, dialect: str) -> dict[str, Path]:
    """The refusals and the answers without a stream that this dialect reads, by `vendor/name.json`."""
    return _read_by(dialect, _files(folder, "*.json"))


def all_answers(folder: Path) -> dict[str, Path]:
    """Every recorded answer, by its name as above."""
    return _files(folder, "*")


def differences(folder: Path) -> list[str]:
    """How the folder differs from what it must hold: a sentence each."""
    count = len(all_answers(folder))
    found = [] if count == ANSWERS else [f"{count} recorded answers instead of {ANSWERS}"]
    streams = Counter(path.parent.name for path in _files(folder, "*.sse").values())
    for vendor, (_, expected) in STREAMS.items():
        if streams[vendor] != expected:
            found.append(f"{streams[vendor]} streams of {vendor} instead of {expected}")
    return found


def _read_by(dialect: str, answers: dict[str, Path]) -> dict[str, Path]:
    return {
        name: path
        for name, path in answers.items()
        if name not in UNREAD and OTHERS.get(name, STREAMS[path.parent.name][0]) == dialect
    }


def _files(folder: Path, pattern: str) -> dict[str, Path]:
    paths = [path for path in sorted(folder.glob(f"*/{pattern}")) if not path.name.endswith(".meta.json")]
    return {f"{path.parent.name}/{path.name.removesuffix('.sse')}": path for path in paths}
