"""Reads an OpenAI-dialect stream of chat completion chunks and pushes their content into a sink.

It never pushes half a code point, and no error contains a provider's raw text. The result does not depend on how the
bytes were split. Unusual but unambiguous forms are accepted (docs/upstreams.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

from parley_server.core.model import Finish, FinishReason
from parley_server.core.ports import Sink
from parley_server.errors import ProviderMalformed
from parley_server.providers.http.sse import EventSplitter
from parley_server.providers.openai.chunk import (
    Choice,
    ContentlessEvents,
    WireChunk,
    decode,
    decode_loosely,
    is_first,
    name_in,
)
from parley_server.providers.openai.content import ChatContent
from parley_server.providers.openai.usage import UsageMeter
from parley_server.providers.reading.content import Notice, ignore
from parley_server.providers.reading.ending import Evidence, finish_of
from parley_server.providers.reading.error_report import is_error, stands_for_error
from parley_server.providers.reading.failures import error_in_body
from parley_server.providers.reading.finish_record import FinishRecord
from parley_server.providers.reading.json_values import json_of
from parley_server.providers.reading.response_name import NO_NAME


class ChunkReader:
    """Takes the bytes of a body, pushes into the sink with one flush per feed, and decides how the stream ended.

    `on_finish` is called with `content_s` at the finish reason, `on_resume` when content follows it, and `on_done` at
    `[DONE]`. `now_s` returns a monotonic time in seconds. `notice` is called with the kind of data that was dropped:
    "after_finish", "count", "content" or "tool_call". With `done_is_finish`, `[DONE]` alone completes an answer.
    `document`: the body is declared as JSON. `origin` names who sent what is kept of an answer that ends with tool
    calls; with `keeps_details`, also its `reasoning_details`.
    """

    def __init__(
        self,
        provider: str,
        sink: Sink,
        *,
        on_finish: Callable[[float | None], None],
        on_done: Callable[[], None],
        on_resume: Callable[[], None] = ignore,
        now_s: Callable[[], float] = time.monotonic,
        notice: Notice = ignore,
        origin: str = "",
        keeps_details: bool = False,
        done_is_finish: bool = False,
        document: bool = False,
    ) -> None:
        self._provider = provider
        self._sink = sink
        self._on_done = on_done
        self._done_is_finish = done_is_finish
        self._splitter = EventSplitter(document=document)
        self._document = document
        self._origin = origin
        self._content = ChatContent(sink, now_s=now_s, notice=notice, keeps_details=keeps_details)
        self._meter = UsageMeter(on_ignored=lambda: notice("count"))
        self._contentless = ContentlessEvents()
        self._name = NO_NAME
        self._finish = FinishRecord(provider, self._content, on_finish=on_finish, on_resume=on_resume, notice=notice)
        self._done = False

    @property
    def begun(self) -> bool:
        """Whether any text, reasoning or tool call has arrived."""
        return self._content.begun

    @property
    def content_s(self) -> float | None:
        """Time of the last text, reasoning or piece of a tool call, by `now_s`; None before the first."""
        return self._content.last_s

    @property
    def finished(self) -> bool:
        """Whether the answer is complete, independently of what follows."""
        return self._done or self._finish.reliable

    def feed(self, data: bytes) -> None:
        """Take one read. Raises a `ProviderError`."""
        if self._done:
            return
        content = self._content
        try:
            events = self._splitter.feed(data)
            rest = iter(events)
            if not self._finish.word:
                self._take(rest)
            if self._finish.word:
                self._take_late(rest)
            if content.last_s is None:
                self._inspect_contentless(events)
        except ProviderMalformed as error:
            if not self.finished:
                raise
            self._finish.ignore(error)
            self._end_at_done()  # the start of the next event is unknown
        finally:
            if content.texts:
                content.push_text()
            if self._meter.changed:
                self._sink.usage(self._meter.usage())
            self._sink.flush()
            self._finish.report()

    def end(self) -> Finish:
        """End the body and return the finish. Raises a `ProviderError` if the answer is incomplete or malformed."""
        whole = self._done or self._take_last()
        try:
            finish = finish_of(self._provider, self._content, self._evidence(whole=whole), self._name)
            if finish.reason is FinishReason.TOOL_CALLS and (kept := self._content.kept_fields()):
                self._sink.keep(self._origin, kept)
        finally:
            self._content.push_rest()
            if self._meter.changed:
                self._sink.usage(self._meter.usage())
            self._sink.flush()
        return finish

    def cut(self) -> None:
        """Push held content after the body broke off."""
        self._content.push_rest()
        self._sink.flush()

    # --- events

    def _inspect_contentless(self, events: list[bytes]) -> None:
        self._content.push_text()
        if not self.begun:
            self._contentless.inspect(events)

    def _take(self, events: Iterator[bytes]) -> None:
        """Take events until one has a finish reason."""
        # This loop runs for each token: names are local, a plain text takes two comparisons, and other fields are read
        # only if they are set. Splitting it into methods would cost a call per token.
        content, word = self._content, self._finish.word
        texts, join = content.texts, content.text_join
        for event in events:
            try:
                chunk = decode(event)
            except (ValueError, RecursionError):
                # Some servers quote [DONE] as a JSON string.
                if event.strip(b' "') == b"[DONE]":
                    self._end_at_done()
                    return
                chunk = self._repaired(event)
            if chunk.error is not None and is_error(chunk.error):
                self._meter.add(chunk.usage)  # the provider may bill what it counted before the error
                raise error_in_body(self._provider, chunk.error)
            said = False
            if chunk.choices:
                for choice in chunk.choices:
                    if choice.index and not is_first(choice.index):
                        continue  # a second answer, which was not requested
                    delta = choice.delta
                    text = None
                    if delta is not None:
                        text = delta.content
                        if type(text) is str and not join.held:
                            texts.append(text)
                        elif text:
                            content.add_irregular(text)
                        if (
                            delta.tool_calls
                            or delta.reasoning_content
                            or delta.reasoning
                            or delta.reasoning_details
                            or delta.refusal
                        ):
                            content.add_rare(delta)
                    if not text or choice.finish_reason is not None:
                        said = True
                        self._take_rest(chunk, choice)
            elif chunk.usage is None:
                self._look_for_error(event)
            if chunk.usage is not None:
                self._meter.add(chunk.usage)
            if said and self._finish.word is not word:
                self._name = name_in(event)
                return

    def _take_rest(self, chunk: WireChunk, choice: Choice) -> None:
        """Take the rare fields of a chunk without text, or of one that ends the answer."""
        delta = choice.delta
        if delta is None:
            self._content.add_in_place_of_delta(choice)
        elif delta.function_call and not delta.tool_calls:
            self._content.add_calls(delta)
        if choice.error is not None and is_error(choice.error):
            raise error_in_body(self._provider, choice.error)
        self._meter.add(choice.usage)
        if isinstance(chunk.x_groq, dict):
            self._meter.add(chunk.x_groq.get("usage"))
        if choice.finish_reason is not None:
            self._finish.take(choice.finish_reason)

    def _take_late(self, events: Iterator[bytes]) -> None:
        """Take events after a finish reason. If it is unreliable, only `[DONE]` or the end of the body completes the
        answer."""
        for event in events:
            if self._done:
                return
            self._finish.take_late(partial(self._take, iter((event,))))

    def _take_last(self) -> bool:
        """Take the events that the end of the body completes. Returns whether they were complete."""
        try:
            events = self._splitter.end()
        except ProviderMalformed:
            return False
        try:
            rest = iter(events)
            if not self._finish.word:
                self._take(rest)
            if self._finish.word:
                self._take_late(rest)
            self._inspect_contentless(events)
        except ProviderMalformed:
            return False  # the stream was cut within an event: truncated, not malformed
        return True

    def _repaired(self, event: bytes) -> WireChunk:
        chunk = decode_loosely(event)
        if chunk is None:
            raise ProviderMalformed(f"{self._provider} sent an unreadable event")
        return chunk

    def _look_for_error(self, event: bytes) -> None:
        value = json_of(event)
        if stands_for_error(value):
            raise error_in_body(self._provider, value)

    # --- ends

    def _end_at_done(self) -> None:
        self._done = True
        self._on_done()

    def _evidence(self, *, whole: bool) -> Evidence:
        splitter, contentless = self._splitter, self._contentless
        done = self._done or (self._document and splitter.documents == 1)
        if self._finish.word:
            completed = self.finished or whole
        else:
            # A server without finish reasons ends with [DONE]. That alone also ends some truncated answers, so usage or
            # the profile must confirm that the answer is complete.
            completed = whole and done and (self._meter.known or self._done_is_finish)
        return Evidence(
            word=self._finish.word,
            completed=completed,
            unknown_form=bool(contentless.foreign or splitter.documents or splitter.ignored),
            unread=contentless.unread,
        )
