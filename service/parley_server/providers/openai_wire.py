"""Decodes the chunks of an OpenAI-dialect stream and pushes what they say into a sink.

It names only the fields in use, and must never push half a code point, or show a provider's raw words in an error.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Any

import msgspec

from parley_server.core.model import Finish, FinishReason, Usage
from parley_server.core.ports import Sink
from parley_server.errors import ProviderMalformed, ProviderTruncated
from parley_server.providers.openai_errors import error_in_body
from parley_server.providers.sse import EventSplitter
from parley_server.providers.surrogates import SurrogateJoin

FINISH_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.MAX_TOKENS,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
}


class ContentPart(msgspec.Struct, gc=False):
    """A part of a delta, at servers that send lists."""

    text: str | None = None


class FunctionDelta(msgspec.Struct, gc=False):
    """A piece of a function's name or arguments."""

    name: str | None = None
    arguments: str | None = None


class ToolDelta(msgspec.Struct, gc=False):
    """A piece of a tool call; some servers leave out the index."""

    index: int | None = None
    id: str | None = None
    function: FunctionDelta | None = None


class Delta(msgspec.Struct, gc=False):
    """What a chunk adds to the answer."""

    content: str | list[ContentPart] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolDelta] | None = None


class Choice(msgspec.Struct, gc=False):
    """One of the answers."""

    delta: Delta | None = None
    finish_reason: str | None = None
    index: int | None = 0


class PromptDetails(msgspec.Struct, gc=False):
    """What the prompt tokens were."""

    cached_tokens: int | None = None


class CompletionDetails(msgspec.Struct, gc=False):
    """What the completion tokens were."""

    reasoning_tokens: int | None = None


class WireUsage(msgspec.Struct, gc=False):
    """The provider's count."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None


class WireChunk(msgspec.Struct, gc=False):
    """One event of the stream."""

    choices: list[Choice] | None = None
    usage: WireUsage | None = None
    error: Any = None


_decode: Callable[[bytes], WireChunk] = msgspec.json.Decoder(WireChunk).decode


class ChunkReader:
    """Fed with a body's bytes, pushes into the sink, flushing once per feed; knows how the stream ended.

    `on_finish` is called when the provider has said why it ended, `on_done` at its `[DONE]`.
    """

    def __init__(
        self, provider: str, sink: Sink, *, on_finish: Callable[[], None], on_done: Callable[[], None]
    ) -> None:
        self._provider = provider
        self._sink = sink
        self._on_finish = on_finish
        self._on_done = on_done
        self._splitter = EventSplitter()
        self._texts: list[str] = []
        self._text_join = SurrogateJoin()
        self._reasoning_join = SurrogateJoin()
        self._tools = ToolCalls(sink)
        self._finish_reason = ""
        self._done = False

    @property
    def finished(self) -> bool:
        """Whether the provider has said why it ended."""
        return bool(self._finish_reason)

    def feed(self, data: bytes) -> None:
        """Take one read. Raises a `ProviderError`."""
        if self._done:
            return
        try:
            self._take(self._splitter.feed(data))
        finally:
            self._push_text()
            self._sink.flush()

    def end(self) -> Finish:
        """The body has ended. Raises `ProviderTruncated` where the provider had not said that it was done."""
        if not self.finished:
            self._take_last()
        self._push_rest()
        self._sink.flush()
        if not self._finish_reason:
            raise ProviderTruncated(f"{self._provider} ended its answer without saying that it was complete")
        reason = FINISH_REASONS.get(self._finish_reason, FinishReason.OTHER)
        return Finish(reason=reason, provider_reason=self._finish_reason)

    def cut(self) -> None:
        """The body broke off: push what was held back."""
        self._push_rest()
        self._sink.flush()

    def _take_last(self) -> None:
        try:
            self._take(self._splitter.end())
        except ProviderMalformed:
            return  # the stream was cut within an event: truncated, not malformed

    def _take(self, events: list[bytes]) -> None:
        texts = self._texts
        for event in events:
            try:
                chunk = _decode(event)
            except ValueError:
                if event.strip() == b"[DONE]":
                    self._done = True
                    self._on_done()
                    return
                chunk = self._repair(event)
            if chunk.error is not None:
                raise error_in_body(self._provider, chunk.error)
            if chunk.choices:
                for choice in chunk.choices:
                    delta = choice.delta
                    if choice.index:
                        continue
                    if delta is not None:
                        content = delta.content
                        if type(content) is str and not self._text_join.held:
                            texts.append(content)
                        elif content:
                            self._odd_content(content)
                        if delta.tool_calls or delta.reasoning_content or delta.reasoning or delta.refusal:
                            self._rare(delta)
                    if choice.finish_reason:
                        self._finish(choice.finish_reason)
            if chunk.usage is not None:
                self._push_text()
                self._sink.usage(_usage(chunk.usage))

    def _rare(self, delta: Delta) -> None:
        reasoning = delta.reasoning_content or delta.reasoning
        if reasoning:
            self._push_text()
            whole = self._reasoning_join.add(reasoning)
            if whole:
                self._sink.reasoning(whole)
        if delta.refusal:
            self._odd_content(delta.refusal)
        if delta.tool_calls:
            self._push_text()
            for tool in delta.tool_calls:
                self._tools.add(tool)

    def _odd_content(self, content: str | list[ContentPart]) -> None:
        text = content if isinstance(content, str) else "".join([part.text or "" for part in content])
        whole = self._text_join.add(text)
        if whole:
            self._texts.append(whole)

    def _push_text(self) -> None:
        texts = self._texts
        if texts:
            text = "".join(texts)
            texts.clear()
            if text:
                self._sink.text(text)

    def _push_rest(self) -> None:
        if reasoning := self._reasoning_join.rest():
            self._sink.reasoning(reasoning)
        if text := self._text_join.rest():
            self._texts.append(text)
        self._push_text()

    def _finish(self, word: str) -> None:
        if word == "error":  # OpenRouter's word for a provider of its own that failed
            raise error_in_body(self._provider, None)
        if not self._finish_reason:
            self._finish_reason = word
            self._on_finish()

    def _repair(self, event: bytes) -> WireChunk:
        """JSON that the strict decoder refuses, but a lenient one reads: halves of surrogate pairs, broken UTF-8."""
        try:
            loose = json.loads(event.decode("utf-8", "replace"))
            chunk = msgspec.convert(loose, WireChunk)
        except (ValueError, RecursionError):
            raise ProviderMalformed(f"{self._provider} sent an event that cannot be read") from None
        for choice in chunk.choices or ():
            if choice.delta is not None and isinstance(choice.delta.content, str):
                choice.delta.content = [ContentPart(choice.delta.content)]  # lists are joined with care
        return chunk


class ToolCalls:
    """The pieces of tool calls, with ids and names where the contract wants them: on the first piece alone."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._joins: dict[int, SurrogateJoin] = {}
        self._last = -1

    def add(self, tool: ToolDelta) -> None:
        """Push a piece."""
        index = self._index(tool)
        function = tool.function or FunctionDelta()
        first = index not in self._joins
        join = self._joins.setdefault(index, SurrogateJoin())
        arguments = join.add(function.arguments or "")
        if first:
            call_id = tool.id or f"call_{secrets.token_hex(12)}"
            self._sink.tool_call(index, call_id, function.name or "", arguments)
        elif arguments:
            self._sink.tool_call(index, "", "", arguments)

    def _index(self, tool: ToolDelta) -> int:
        if tool.index is None:
            self._last = self._last + 1 if tool.id or self._last < 0 else self._last
        else:
            self._last = tool.index
        return self._last


def _usage(usage: WireUsage) -> Usage:
    prompt = usage.prompt_tokens_details or PromptDetails()
    completion = usage.completion_tokens_details or CompletionDetails()
    return Usage(
        prompt_tokens=usage.prompt_tokens or 0,
        cached_prompt_tokens=prompt.cached_tokens or 0,
        completion_tokens=usage.completion_tokens or 0,
        reasoning_tokens=completion.reasoning_tokens or 0,
    )
