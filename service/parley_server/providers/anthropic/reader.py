"""Reads a stream of the Messages API and pushes its content into a sink.

It never pushes half a code point, and no error contains a provider's raw text. The result does not depend on how the
bytes were split.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from parley_server.core.model import Finish, FinishReason
from parley_server.core.ports import Sink
from parley_server.errors import ProviderMalformed
from parley_server.providers.anthropic.blocks import BlockContent
from parley_server.providers.anthropic.usage import MessageUsage
from parley_server.providers.anthropic.wire import TEXT_DELTA, WireEvent, decode, decode_loosely
from parley_server.providers.http.sse import EventSplitter
from parley_server.providers.reading.content import Notice, ignore
from parley_server.providers.reading.ending import Evidence, finish_of
from parley_server.providers.reading.error_report import is_error, stands_for_error
from parley_server.providers.reading.failures import error_in_body
from parley_server.providers.reading.finish_record import FinishRecord
from parley_server.providers.reading.json_values import json_of
from parley_server.providers.reading.response_name import NO_NAME, response_name


class MessageReader:
    """Takes the bytes of a body, and pushes into the sink with one flush per feed.

    `on_finish` is called with the time of the last content at the stop reason, `on_resume` when content follows it, and
    `on_done` at the event that ends the message; nothing after that is read. `now_s` returns a monotonic time in
    seconds. `notice` is called with the kind of data that was dropped: "after_finish", "count", "content" or
    "tool_call". `origin` names who sent the content blocks, which are kept if the answer ends with tool calls.
    `document`: the body is declared as JSON, so it may be a whole message.
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
        document: bool = False,
    ) -> None:
        self._provider = provider
        self._sink = sink
        self._on_done = on_done
        self._origin = origin
        self._splitter = EventSplitter(document=document)
        self._content = BlockContent(sink, now_s=now_s, notice=notice)
        self._usage = MessageUsage(on_ignored=lambda: notice("count"))
        self._started = False
        self._name = NO_NAME
        self._finish = FinishRecord(provider, self._content, on_finish=on_finish, on_resume=on_resume, notice=notice)
        self._done = False
        self._foreign = False

    @property
    def begun(self) -> bool:
        """Whether any text, reasoning or tool call has arrived."""
        return self._content.begun

    @property
    def finished(self) -> bool:
        """Whether the answer is complete, independently of what follows."""
        return bool(self._finish.word) and (self._done or not self._finish.unreliable)

    def feed(self, data: bytes) -> None:
        """Take one read. Raises a `ProviderError`."""
        if self._done:
            return
        try:
            self._take_all(self._splitter.feed(data))
        except ProviderMalformed as error:
            if not self.finished:
                raise
            self._finish.ignore(error)
            self._end_message()  # the start of the next event is unknown
        finally:
            self._push()
            if not self._done:
                self._finish.report()

    def end(self) -> Finish:
        """End the body and return the finish. Raises a `ProviderError` if the answer is incomplete or malformed."""
        whole = self._done or self._take_last()
        try:
            self._content.end_all()
            finish = finish_of(self._provider, self._content, self._evidence(whole=whole), self._name)
            if finish.reason is FinishReason.TOOL_CALLS:
                self._content.push_kept(self._origin)
        finally:
            self._content.push_rest()
            self._push()
        return finish

    def cut(self) -> None:
        """Push held content after the body broke off."""
        self._content.push_rest()
        self._sink.flush()

    def _push(self) -> None:
        if self._content.texts:
            self._content.push_text()
        if self._usage.changed:
            self._sink.usage(self._usage.usage())
        self._sink.flush()

    # --- events

    def _take_all(self, events: Iterable[bytes]) -> None:
        rest = iter(events)
        if not self._finish.word:
            self._take(rest)
        for event in rest:
            self._take_late(event)

    def _take(self, events: Iterator[bytes]) -> None:
        """Take events until one has a stop reason or ends the message."""
        # This loop runs for each token: a plain text takes three comparisons.
        texts, join = self._content.texts, self._content.text_join
        for event in events:
            try:
                wire = decode(event)
            except (ValueError, RecursionError):
                wire = self._loose(event)
            delta = wire.delta
            if delta is not None and delta.type == TEXT_DELTA and type(delta.text) is str and not join.held:
                texts.append(delta.text)
                continue
            self._take_other(wire, event)
            if self._finish.word or self._done:
                return

    def _take_late(self, event: bytes) -> None:
        """Take an event after the stop reason. If that is unreliable, only the end of the message or of the body
        completes the answer."""
        if not self._done:
            self._finish.take_late(partial(self._take, iter((event,))))

    def _take_last(self) -> bool:
        """Take the events that the end of the body completes. Returns whether they were complete."""
        try:
            self._take_all(self._splitter.end())
        except ProviderMalformed:
            return False  # the stream was cut within an event: truncated, not malformed
        return True

    def _loose(self, event: bytes) -> WireEvent:
        wire = decode_loosely(event)
        if wire is None:
            raise ProviderMalformed(f"{self._provider} sent an unreadable event")
        return wire

    def _take_other(self, wire: WireEvent, event: bytes) -> None:
        if wire.error is not None and is_error(wire.error):
            raise error_in_body(self._provider, wire.error)
        match wire.type:
            case "content_block_delta":
                if wire.delta is not None:
                    self._content.add(wire.index, wire.delta)
            case "content_block_start":
                self._content.begin(wire.index, wire.content_block)
            case "content_block_stop":
                self._content.end(wire.index)
            case "message_start":
                self._start(wire.message)
            case "message_delta":
                self._usage.add(wire.usage)
                if wire.delta is not None:
                    self._finish.take(wire.delta.stop_reason)
            case "message_stop":
                self._end_message()
            case "message":
                self._take_message(json_of(event))
            case _:
                self._take_unknown(wire.type, event)

    def _take_unknown(self, kind: object, event: bytes) -> None:
        """An event that is not read: a ping, one of a newer version of the API, or one of another form."""
        if kind == "ping":
            return
        value = json_of(event)
        if stands_for_error(value):
            raise error_in_body(self._provider, value)
        self._foreign = self._foreign or not isinstance(kind, str)

    def _start(self, message: object) -> None:
        if self._started:  # some servers start a message again after an internal retry
            self._content.restart()
        self._started = True
        if isinstance(message, dict):
            self._name = response_name(message.get("id"), message.get("model"))
            self._usage.add(message.get("usage"), at_start=True)

    def _take_message(self, message: dict[str, Any]) -> None:
        """Take a whole message."""
        blocks = message.get("content")
        for index, block in enumerate(blocks if isinstance(blocks, list) else ()):
            self._content.begin(index, block)
            self._content.end(index)
        self._name = response_name(message.get("id"), message.get("model"))
        self._usage.add(message.get("usage"))
        self._finish.take(message.get("stop_reason"))
        self._end_message()

    # --- ends

    def _end_message(self) -> None:
        self._done = True
        self._on_done()

    def _evidence(self, *, whole: bool) -> Evidence:
        return Evidence(
            word=self._finish.word,
            completed=bool(self._finish.word) and (self.finished or whole),
            unknown_form=bool(self._foreign or self._splitter.documents or self._splitter.ignored),
            unread=bool(self._finish.word) and self._content.unread,
        )
