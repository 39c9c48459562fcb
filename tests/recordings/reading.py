"""What the server's code reads from recorded bytes, in the form of the plain readers."""

from __future__ import annotations

from typing import Any

from parley_server.core.model import Finish
from parley_server.errors import ProviderError

from tests.integration.providers.recording import RecordingSink
from tests.recordings.dialects import Dialect
from tests.recordings.plain import Outcome
from tests.upstream import Script, Upstream


async def answered(dialect: Dialect, script: Script) -> tuple[RecordingSink, Finish | ProviderError]:
    """What the shipped provider makes of the script: what it pushed, and its finish or its error."""
    sink = RecordingSink()
    async with Upstream() as upstream:
        upstream.reply_with(script)
        provider = dialect.provider(upstream.url)
        try:
            return sink, await provider.generate(dialect.prompt, sink)
        except ProviderError as error:
            return sink, error
        finally:
            await provider.close()


async def read_over_a_socket(dialect: Dialect, script: Script) -> Outcome:
    """What the shipped provider reads from the script."""
    return _outcome(dialect, *await answered(dialect, script))


def fed(dialect: Dialect, reads: list[bytes]) -> tuple[Outcome, list[list[Any]]]:
    """What the reader makes of a body that comes in these reads, and what it pushed in order: texts, reasoning and
    arguments of a call that follow one another are joined."""
    sink = RecordingSink()
    done: list[bool] = []
    reader = dialect.reader(sink, lambda: done.append(True))
    try:
        for each in reads:
            if not done:
                reader.feed(each)
        end: Finish | ProviderError = reader.end()
    except ProviderError as error:
        end = error
    return _outcome(dialect, sink, end), _joined(sink)


def _joined(sink: RecordingSink) -> list[list[Any]]:
    runs: list[list[Any]] = []
    for kind, *pushed in sink.events:
        key = (kind, pushed[0]) if kind == "tool_call" else (kind,)
        piece = pushed[-1]
        if kind == "usage" or not piece:
            continue
        if runs and runs[-1][0] == key:
            runs[-1][1] += piece
        else:
            runs.append([key, piece])
    return runs


def _outcome(dialect: Dialect, sink: RecordingSink, end: Finish | ProviderError) -> Outcome:
    calls: dict[int, tuple[str, str, str]] = {}
    for kind, *pushed in sink.events:
        if kind == "tool_call":
            index, call_id, name, arguments = pushed
            known = calls.setdefault(index, (call_id, name, ""))
            calls[index] = (*known[:2], known[2] + arguments)
    counted = sink.counted[-1] if sink.counted else None
    counts = counted and (
        counted.prompt_tokens,
        counted.cached_prompt_tokens,
        counted.completion_tokens,
        counted.reasoning_tokens,
    )
    word = end.provider_reason if isinstance(end, Finish) else ""
    outcome = Outcome(
        sink.content, sink.reasoning_content, tuple(calls.values()), end=str(end.reason), word=word, counts=counts
    )
    return dialect.comparable(outcome)
