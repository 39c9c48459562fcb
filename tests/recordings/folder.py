"""The folder of recorded answers of vendors: where it is, what it must hold, and the dialect of each stream.

It is no part of this repository. Its layout: a folder per vendor with bodies of streams (`*.sse`), bodies of refusals
(`*.http404.json`) and what is known of the exchange (`*.meta.json`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "PARLEY_RECORDINGS"
"""The environment variable that names the folder."""
ANSWERS = 549
"""Streams and refusals of all vendors together."""
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
"""The dialect and the number of the streams of each vendor; `EXCEPTIONS` have another dialect."""

EXCEPTIONS = {
    "azure-responses/vercelai-azure-deepseek-reasoning.1": "chat",
    "deepseek/pydanticai-deepseek_responses--deepseek_responses_function_tool_stream_.0": "responses",
    "deepseek/pydanticai-deepseek_responses--deepseek_responses_function_tool_stream_.1": "responses",
    "openrouter/llm-openrouter-llm_openrouter--image_prompt.1": "responses",
    "openrouter/llm-openrouter-llm_openrouter--prompt.1": "responses",
    "openrouter/llm-openrouter-llm_openrouter--reasoning.1": "responses",
    "openrouter/llm-openrouter-llm_openrouter--tool_calls.1": "responses",
    "openrouter/llm-openrouter-llm_openrouter--tool_calls.2": "responses",
    "openrouter/pydanticai-openai_responses--openai_responses_raw_cot_stream_openrouter.0": "responses",
    # Google's Interactions API, which is another one than generateContent.
    "gemini/openinference-interactions_instrumentation--generate_interactions_async_True_.0": "",
    "gemini/openinference-interactions_instrumentation--generate_interactions_simple_message_True_.0": "",
    # Its JSON lacks a brace.
    "openai-responses/vercelai-parallel-tool-call-wrapper.1": "",
    # Legacy completions (/v1/completions): a prompt without messages, which Parley does not send.
    "openai/openllmetry-completions--async_completion_streaming.0": "",
    "openai/openllmetry-completions--async_completion_streaming.1": "",
    "openai/openllmetry-completions--async_completion_streaming.2": "",
    "openai/openllmetry-completions--async_completion_streaming_with_events_with_content.1": "",
    "openai/openllmetry-completions--async_completion_streaming_with_events_with_no_content.0": "",
    "openai/openllmetry-completions--async_completion_streaming_with_events_with_no_content.2": "",
    "openai/openllmetry-completions--completion_streaming_with_events_with_content.1": "",
    "openai/openllmetry-completions--completion_streaming_with_events_with_content.2": "",
    "openai/openllmetry-completions--completion_streaming_with_events_with_no_content.0": "",
    "openai/openllmetry-completions--completion_streaming_with_events_with_no_content.1": "",
    "openai/openllmetry-completions--completion_streaming_with_events_with_no_content.2": "",
    "openai/openllmetry-finish_reasons"
    "--TestCompletionsFinishReasons.async_completions_streaming_sets_top_level_finish_reasons.0": "",
    "openai/openllmetry-finish_reasons"
    "--TestCompletionsFinishReasons.completions_streaming_sets_top_level_finish_reasons.0": "",
    "openai/vercelai-openai-completion-text": "",
}
"""The dialect of streams of another one than their vendor's; empty for a stream that no dialect of Parley reads."""


def recordings(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The folder that the environment names; None where it names none."""
    named = environment.get(VARIABLE)
    return Path(named) if named else None


def streams_of(folder: Path, dialect: str) -> dict[str, Path]:
    """The streams of this dialect, by `vendor/name`."""
    return {
        name: path
        for vendor, (usual, _) in STREAMS.items()
        for name, path in _streams(folder, vendor).items()
        if EXCEPTIONS.get(name, usual) == dialect
    }


def differences(folder: Path) -> list[str]:
    """How the folder differs from what it must hold: a sentence each."""
    answers = [path for path in folder.glob("*/*") if not path.name.endswith(".meta.json")]
    found = [] if len(answers) == ANSWERS else [f"{len(answers)} recorded answers instead of {ANSWERS}"]
    for vendor, (_, expected) in STREAMS.items():
        count = len(_streams(folder, vendor))
        if count != expected:
            found.append(f"{count} streams of {vendor} instead of {expected}")
    missing = [name for name in EXCEPTIONS if not Path(folder, f"{name}.sse").is_file()]
    return found + [f"{name}.sse is listed and not there" for name in missing]


def _streams(folder: Path, vendor: str) -> dict[str, Path]:
    paths = sorted(Path(folder, vendor).glob("*.sse"))
    return {f"{vendor}/{path.name.removesuffix('.sse')}": path for path in paths}
