"""Reads a generateContent stream and pushes its content into a sink.

The stream has no terminator: the end of the body after a finish reason completes the answer. The reader never pushes
half a code point, no error contains a provider's raw text, and the result does not depend on how the bytes were split.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from functools import partial

from parley_server.core.model import Finish, FinishReason
from parley_server.core.ports import Sink
from parley_server.errors import ProviderError, ProviderMalformed
from parley_server.providers.gemini.errors import block_word, failure_of_word
from parley_server.providers.gemini.usage import has_counts, usage_of
from parley_server.providers.gemini.wire import (
    Candidate,
    Chunk,
    Counts,
    FunctionCall,
    Part,
    decode,
    decode_loosely,
    is_first,
    name_in,
    piece_of,
    raw_parts,
)
from parley_server.providers.http.sse import EventSplitter
from parley_server.providers.reading.content import Content, Notice, ignore
from parley_server.providers.reading.ending import Evidence, finish_of
from parley_server.providers.reading.error_report import is_error, stands_for_error
from parley_server.providers.reading.events import word_of
from parley_server.providers.reading.failures import error_in_body
from parley_server.providers.reading.finish_record import FinishRecord
from parley_server.providers.reading.json_values import json_of
from parley_server.providers.reading.kept import KeptItems
from parley_server.providers.reading.response_name import NO_NAME

HELD_BYTES = 1024 * 1024
"""Events are held up to this size before the parts in them are collected."""
USAGE_INTERVAL_S = 0.25
"""Nearly every chunk has counts; they are pushed at most this often, and at the end."""


class GeminiReader:
    """Takes the bytes of a body, pushes into the sink with one flush per feed, and decides how the stream ended.

    `on_finish` is called with the time of the last content at the first finish reason, `on_resume` when content follows
    one, and `on_done` when nothing that follows can be read. `now_s` returns a monotonic time in seconds. `notice` is
    called with the kind of data that was dropped: "after_finish", "count", "content" or "tool_call". `document`: the
    body is declared as JSON. `keeps`: the answer may have tool calls; its parts are then kept for the next request,
    under the name `origin` of who sent them.
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
        keeps: bool = False,
        document: bool = False,
    ) -> None:
        self._provider = provider
        self._sink = sink
        self._on_done = on_done
        self._notice = notice
        self._splitter = EventSplitter(document=document)
        self._content = Content(sink, now_s=now_s, notice=notice)
        self._items = _Items(origin) if keeps else None
        self._counts: Counts | None = None
        self._usage_due_s = 0.0
        self._calls = 0
        self._name = NO_NAME
        self._finish = FinishRecord(provider, self._content, on_finish=on_finish, on_resume=on_resume, notice=notice)
        self._blocked = False
        self._unread = False
        self._foreign = False
        self._done = False

    @property
    def begun(self) -> bool:
        """Whether any text, reasoning or tool call has arrived."""
        return self._content.begun

    @property
    def finished(self) -> bool:
        """Whether the answer is complete, independently of what follows."""
        return self._finish.reliable

    def feed(self, data: bytes) -> None:
        """Take one read. Raises a `ProviderError`."""
        if self._done:
            return
        content = self._content
        try:
            self._take(self._splitter.feed(data))
        except ProviderError as error:
            if not self.finished or not isinstance(error, ProviderMalformed):
                self._push_usage()
                raise
            self._finish.ignore(error)
            self._done = True  # the start of the next event is unknown
            self._on_done()
        finally:
            content.push_text()
            if self._counts is not None and (content.last_s is None or content.last_s >= self._usage_due_s):
                self._push_usage()
            self._sink.flush()
            self._finish.report()

    def end(self) -> Finish:
        """End the body and return the finish. Raises a `ProviderError` if the answer is incomplete or malformed."""
        whole = self._done or self._take_last()
        try:
            finish = self._finish_at_end(whole=whole)
            if finish.reason is FinishReason.TOOL_CALLS and self._items is not None:
                self._items.push(self._sink)
        finally:
            self.cut()
        return finish

    def cut(self) -> None:
        """Push held content and counts after the body broke off."""
        self._content.push_rest()
        self._push_usage()
        self._sink.flush()

    def _push_usage(self) -> None:
        if self._counts is not None:
            self._usage_due_s = (self._content.last_s or 0.0) + USAGE_INTERVAL_S
            self._sink.usage(usage_of(self._counts, on_ignored=lambda: self._notice("count")))
            self._counts = None

    # --- events

    def _take(self, events: list[bytes]) -> None:
        # This loop runs for each token. Text that arrives as usual takes the first branch.
        texts, join = self._content.texts, self._content.text_join
        if self._items is not None:
            self._items.hold(events)
        for event in events:
            try:
                chunk = decode(event)
            except (ValueError, RecursionError):
                self._take_loosely(event)
                continue
            text = _plain_text(chunk)
            if text is not None and not join.held and not self._finish.word:
                texts.append(text)
                counts = chunk.usageMetadata
                if counts is not None and (counts.totalTokenCount or has_counts(counts)):
                    self._counts = counts
            else:
                self._take_other(chunk, event)

    def _take_loosely(self, event: bytes) -> None:
        chunks = decode_loosely(event)
        if not chunks:
            raise ProviderMalformed(f"{self._provider} sent an unreadable event")
        for chunk in chunks:
            self._take_other(chunk, event)

    def _take_other(self, chunk: Chunk, event: bytes) -> None:
        """Take a chunk of any form. If the finish reason is unreliable, only the end of the body completes the
        answer."""
        late = bool(self._finish.word)
        if late:
            self._finish.take_late(partial(self._take_chunk, chunk, event))
        else:
            self._content.push_text()
            self._take_chunk(chunk, event)
        if self._finish.word and not late:
            self._name = name_in(event)

    def _take_chunk(self, chunk: Chunk, event: bytes) -> None:
        if chunk.usageMetadata is not None and has_counts(chunk.usageMetadata):
            self._counts = chunk.usageMetadata
        if chunk.error is not None and is_error(chunk.error):
            raise error_in_body(self._provider, chunk.error)
        for candidate in chunk.candidates or ():
            if is_first(candidate.index):
                self._take_candidate(candidate)
        if chunk.candidates:
            return
        if word := word_of(block_word(chunk.promptFeedback)):
            self._finish.word, self._blocked = word, True
            self._counts = self._counts if self.begun else None  # a refused prompt is not billed
        elif chunk.candidates is None and chunk.usageMetadata is None and chunk.promptFeedback is None:
            self._take_foreign(event)

    def _take_foreign(self, event: bytes) -> None:
        value = json_of(event)
        if stands_for_error(value):
            raise error_in_body(self._provider, value)
        self._foreign = True

    def _take_candidate(self, candidate: Candidate) -> None:
        content = candidate.content
        if content is not None:
            for part in content.parts or ():
                self._take_part(part)
            self._unread = self._unread or (content.parts is None and content.role is None)
        word = word_of(candidate.finishReason)
        if not word:
            return
        failure = failure_of_word(word)
        if failure is not None:
            error = failure(f"{self._provider} ended its answer with an error", metadata={"provider_code": word})
            error.billed = True
            raise error
        self._finish.word = word

    def _take_part(self, part: Part) -> None:
        text = part.text
        if part.functionCall is not None:
            self._take_call(part.functionCall)
        elif not isinstance(text, str):
            self._unread = True
            self._notice("content")  # an image, or what a tool of the vendor did
        elif part.thought:
            self._content.add_reasoning(text, _signature_of(part))
        else:
            self._content.add_text(text)

    def _take_call(self, call: FunctionCall) -> None:
        if call.partialArgs is not None or call.willContinue:
            raise ProviderMalformed(f"{self._provider} sent the arguments of a tool call in pieces")
        self._content.add_call(piece_of(call, self._calls))
        self._calls += 1

    def _take_last(self) -> bool:
        """Take the events that the end of the body completes. Returns whether they were complete."""
        try:
            self._take(self._splitter.end())
        except ProviderMalformed:
            return False  # the stream was cut within an event: truncated, not malformed
        return True

    # --- the end

    def _finish_at_end(self, *, whole: bool) -> Finish:
        completed = self.finished or (bool(self._finish.word) and whole)
        if self._blocked and completed:
            self._content.push_rest()
            return Finish(
                reason=FinishReason.CONTENT_FILTER,
                provider_reason=self._finish.word,
                response_id=self._name.id,
                response_model=self._name.model,
            )
        unknown_form = bool(self._foreign or self._splitter.documents or self._splitter.ignored)
        evidence = Evidence(word=self._finish.word, completed=completed, unknown_form=unknown_form, unread=self._unread)
        return finish_of(self._provider, self._content, evidence, self._name)


class _Items:
    """The parts of an answer as the vendor sent them. They are read from the events at the end, or when the held events
    become large, because few answers need them."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._events: list[bytes] = []
        self._held_bytes = 0
        self._items = KeptItems()

    def hold(self, events: list[bytes]) -> None:
        """Hold events."""
        self._events += events
        self._held_bytes += sum(map(len, events))
        if self._held_bytes > HELD_BYTES:
            self._collect()

    def push(self, sink: Sink) -> None:
        """Push the parts of all events."""
        self._collect()
        self._items.push(sink, self._origin)

    def _collect(self) -> None:
        for event in self._events:
            for part in raw_parts(event):
                self._items.add(part)
        self._events, self._held_bytes = [], 0


def _plain_text(chunk: Chunk) -> str | None:
    """The text of a chunk that has one text, and nothing else that must be looked at; else None."""
    candidates = chunk.candidates
    if not candidates or len(candidates) != 1 or chunk.error is not None:
        return None
    candidate = candidates[0]
    content = candidate.content
    if content is None or candidate.finishReason is not None or candidate.index:
        return None
    parts = content.parts
    if not parts or len(parts) != 1:
        return None
    part = parts[0]
    text = part.text
    return text if type(text) is str and not part.thought and part.functionCall is None else None


def _signature_of(part: Part) -> bytes:
    """The signature of a part; empty if it has none, or one that is not base64."""
    signature = part.thoughtSignature
    if not isinstance(signature, str):
        return b""
    try:
        return base64.b64decode(signature.replace("-", "+").replace("_", "/"), validate=True)
    except ValueError:
        return b""
