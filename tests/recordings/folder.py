"""The folder of recorded answers of vendors: where it is, what it must hold, and which of it is a chat completion.

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
    "alibaba": 3,
    "azure": 21,
    "crusoe": 1,
    "deepseek": 8,
    "groq": 12,
    "huggingface": 2,
    "mistral": 14,
    "moonshot": 1,
    "openai": 148,
    "openai-compatible": 1,
    "openrouter": 13,
    "perplexity": 2,
    "snowflake": 2,
    "xai": 2,
    "zai": 1,
}
"""Streams of the vendors that speak chat completions, OTHER_DIALECTS included."""

_COMPLETIONS = "legacy completions (/v1/completions): a prompt without messages, which Parley does not send"
_RESPONSES = "the Responses API: another dialect than chat completions"

OTHER_DIALECTS = {
    "deepseek/pydanticai-deepseek_responses--deepseek_responses_function_tool_stream_.0": _RESPONSES,
    "deepseek/pydanticai-deepseek_responses--deepseek_responses_function_tool_stream_.1": _RESPONSES,
    "openai/openllmetry-completions--async_completion_streaming.0": _COMPLETIONS,
    "openai/openllmetry-completions--async_completion_streaming.1": _COMPLETIONS,
    "openai/openllmetry-completions--async_completion_streaming.2": _COMPLETIONS,
    "openai/openllmetry-completions--async_completion_streaming_with_events_with_content.1": _COMPLETIONS,
    "openai/openllmetry-completions--async_completion_streaming_with_events_with_no_content.0": _COMPLETIONS,
    "openai/openllmetry-completions--async_completion_streaming_with_events_with_no_content.2": _COMPLETIONS,
    "openai/openllmetry-completions--completion_streaming_with_events_with_content.1": _COMPLETIONS,
    "openai/openllmetry-completions--completion_streaming_with_events_with_content.2": _COMPLETIONS,
    "openai/openllmetry-completions--completion_streaming_with_events_with_no_content.0": _COMPLETIONS,
    "openai/openllmetry-completions--completion_streaming_with_events_with_no_content.1": _COMPLETIONS,
    "openai/openllmetry-completions--completion_streaming_with_events_with_no_content.2": _COMPLETIONS,
    "openai/openllmetry-finish_reasons"
    "--TestCompletionsFinishReasons.async_completions_streaming_sets_top_level_finish_reasons.0": _COMPLETIONS,
    "openai/openllmetry-finish_reasons"
    "--TestCompletionsFinishReasons.completions_streaming_sets_top_level_finish_reasons.0": _COMPLETIONS,
    "openai/vercelai-openai-completion-text": _COMPLETIONS,
    "openrouter/llm-openrouter-llm_openrouter--image_prompt.1": _RESPONSES,
    "openrouter/llm-openrouter-llm_openrouter--prompt.1": _RESPONSES,
    "openrouter/llm-openrouter-llm_openrouter--reasoning.1": _RESPONSES,
    "openrouter/llm-openrouter-llm_openrouter--tool_calls.1": _RESPONSES,
    "openrouter/llm-openrouter-llm_openrouter--tool_calls.2": _RESPONSES,
    "openrouter/pydanticai-openai_responses--openai_responses_raw_cot_stream_openrouter.0": _RESPONSES,
}
"""Streams that are no chat completions, with the reason."""


def recordings(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The folder that the environment names; None where it names none."""
    named = environment.get(VARIABLE)
    return Path(named) if named else None


def chat_completions(folder: Path) -> dict[str, Path]:
    """The streams of chat completions, by `vendor/name`."""
    streams = {name: path for vendor in sorted(STREAMS) for name, path in _streams(folder, vendor).items()}
    return {name: path for name, path in streams.items() if name not in OTHER_DIALECTS}


def differences(folder: Path) -> list[str]:
    """How the folder differs from what it must hold: a sentence each."""
    answers = [path for path in folder.glob("*/*") if not path.name.endswith(".meta.json")]
    found = [] if len(answers) == ANSWERS else [f"{len(answers)} recorded answers instead of {ANSWERS}"]
    for vendor, expected in STREAMS.items():
        count = len(_streams(folder, vendor))
        if count != expected:
            found.append(f"{count} streams of {vendor} instead of {expected}")
    missing = [name for name in OTHER_DIALECTS if not Path(folder, f"{name}.sse").is_file()]
    return found + [f"{name}.sse is listed and not there" for name in missing]


def _streams(folder: Path, vendor: str) -> dict[str, Path]:
    paths = sorted(Path(folder, vendor).glob("*.sse"))
    return {f"{vendor}/{path.name.removesuffix('.sse')}": path for path in paths}
