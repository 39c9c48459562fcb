"""A provider that plays a script without a vendor, for demonstrations and tests. It does no I/O."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable

import msgspec

from parley_server.core.model import Finish, FinishReason, Prompt, PromptMessage, TextPart, ToolResultPart, Usage
from parley_server.core.ports import Clock, Sink
from parley_server.errors import (
    ProviderContextTooLarge,
    ProviderError,
    ProviderMalformed,
    ProviderRateLimited,
    ProviderRejected,
    ProviderTimeout,
    ProviderTruncated,
    ProviderUnauthenticated,
    ProviderUnavailable,
)
from parley_server.providers.scripted.script import CallStep, ErrorFault, Script, StallFault, split_directive

QUOTED_CHARACTERS = 200
ERRORS: dict[str, type[ProviderError]] = {
    kind.reason.value: kind
    for kind in (
        ProviderUnavailable,
        ProviderRateLimited,
        ProviderTimeout,
        ProviderRejected,
        ProviderUnauthenticated,
        ProviderMalformed,
        ProviderTruncated,
        ProviderContextTooLarge,
    )
}
WORDS = {
    FinishReason.STOP: "stop",
    FinishReason.MAX_TOKENS: "length",
    FinishReason.TOOL_CALLS: "tool_calls",
    FinishReason.CONTENT_FILTER: "content_filter",
    FinishReason.OTHER: "other",
}

Push = Callable[[Sink], None]


class ScriptedProvider:
    """Plays `script`, or the script that the function `script` returns for a prompt. With `directives`, a user's
    `/script {...}` overrides both. All waits use `clock`. A token is a word, and no token is cached.
    """

    def __init__(
        self, *, clock: Clock, script: Script | Callable[[Prompt], Script] | None = None, directives: bool = True
    ) -> None:
        self._clock = clock
        self._script = script if script is not None else Script()
        self._directives = directives

    async def generate(self, prompt: Prompt, sink: Sink) -> Finish:
        """See `Provider`. Raises the error of the script's fault, and `ProviderRejected` for an invalid directive."""
        script, asked = self._read(prompt)
        pieces = _pieces(script, asked)
        limit = prompt.sampling.max_output_tokens
        cut = limit is not None and len(pieces) > limit
        pieces = pieces[:limit]
        await _Playback(script, pieces, clock=self._clock).play(sink)
        if script.usage:
            sink.usage(_usage(prompt, script, asked=asked, pieces=len(pieces), cut=cut))
            sink.flush()
        reason = FinishReason.MAX_TOKENS if cut else script.finish_reason
        return Finish(reason=reason, provider_reason=WORDS[reason])

    async def close(self) -> None:
        """See `Provider`. There is nothing to close."""

    def _read(self, prompt: Prompt) -> tuple[Script, str]:
        script = self._script(prompt) if callable(self._script) else self._script
        last = next((message for message in reversed(prompt.messages) if message.role != "system"), None)
        asked = _text_of(last) if last is not None else ""
        if self._directives and last is not None and last.role == "user":
            return split_directive(asked, script)
        return script, asked


class _Playback:
    """Plays one answer, piece by piece."""

    def __init__(self, script: Script, pieces: list[Push], *, clock: Clock) -> None:
        self._script = script
        self._pieces = pieces
        self._clock = clock

    async def play(self, sink: Sink) -> None:
        script, clock = self._script, self._clock
        if script.first_token_delay_s:
            await clock.sleep(script.first_token_delay_s)
        due = clock.monotonic()
        for at, push in enumerate(self._pieces):
            due += await self._incidents(at)
            if at:
                due += script.pace_s
                await clock.sleep(max(0.0, due - clock.monotonic()))
            push(sink)
            sink.flush()
        await self._incidents(len(self._pieces))

    async def _incidents(self, at: int) -> float:
        """Play the pauses and the fault before piece `at`. Returns the seconds paused, by which later pieces are
        delayed."""
        script = self._script
        paused_s = sum(pause.seconds for pause in script.pauses if min(pause.after, len(self._pieces)) == at)
        if paused_s:
            await self._clock.sleep(paused_s)
        fault = script.fault
        if fault is None or min(fault.after, len(self._pieces)) != at:
            return paused_s
        if isinstance(fault, StallFault):
            await asyncio.get_running_loop().create_future()
        if isinstance(fault, ErrorFault):
            raise ERRORS[fault.reason](f"the script fails here: {fault.reason}", retry_after_s=fault.retry_after_s)
        raise ProviderTruncated("the script breaks off here")


def _pieces(script: Script, asked: str) -> list[Push]:
    pushes: list[Push] = [_reasoning(piece) for piece in _cut(script.reasoning, script.pieces)]
    pushes += [_text(piece) for piece in _cut(_answer(script, asked), script.pieces)]
    for index, call in enumerate(script.tool_calls):
        pushes += _call(index, call)
    return pushes


def _answer(script: Script, asked: str) -> str:
    if script.text is not None:
        return script.text * script.repeat
    if script.tool_calls:
        return ""
    quoted = " ".join(asked.split())
    if len(quoted) > QUOTED_CHARACTERS:
        quoted = quoted[:QUOTED_CHARACTERS] + "…"
    heard = f"You said: “{quoted}”." if quoted else "You said nothing that I can quote."
    greeting = "Hello! I am Parley's scripted model, a typewriter that answers without any provider."
    return f"{greeting} {heard} Configure a provider to talk to a real model." * script.repeat


def _cut(text: str, pieces: str) -> list[str]:
    if pieces == "word":
        return re.findall(r"\S+\s*|\s+", text)
    if pieces == "character":
        return list(text)
    return [text] if text else []


def _text(piece: str) -> Push:
    return lambda sink: sink.text(piece)


def _reasoning(piece: str) -> Push:
    return lambda sink: sink.reasoning(piece)


def _call(index: int, call: CallStep) -> list[Push]:
    call_id = call.id or f"call_{secrets.token_hex(12)}"
    arguments = call.arguments if isinstance(call.arguments, str) else msgspec.json.encode(call.arguments).decode()
    half = len(arguments) // 2
    return [
        lambda sink: sink.tool_call(index, call_id, call.name, arguments[:half]),
        lambda sink: sink.tool_call(index, "", "", arguments[half:]),
    ]


def _text_of(message: PromptMessage) -> str:
    texts = [part.text for part in message.parts if isinstance(part, TextPart)]
    texts += [part.content for part in message.parts if isinstance(part, ToolResultPart)]
    return "\n".join(texts)


def _usage(prompt: Prompt, script: Script, *, asked: str, pieces: int, cut: bool) -> Usage:
    reasoning = len(script.reasoning.split())
    whole = reasoning + len(_answer(script, asked).split()) + len(script.tool_calls)
    completion = min(whole, pieces) if cut else whole
    return Usage(
        prompt_tokens=sum(len(_text_of(message).split()) for message in prompt.messages),
        completion_tokens=completion,
        reasoning_tokens=min(reasoning, completion),
    )
