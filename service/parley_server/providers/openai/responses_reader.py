"""Reads a stream of the Responses API and pushes its content into a sink.

It follows the rules of `reader`: whole code points, no text of a provider in errors, and a result that does not depend
on how the bytes were split.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from parley_server.core.model import Finish, FinishReason
from parley_server.core.ports import Sink
from parley_server.errors import ProviderMalformed
from parley_server.providers.http.sse import EventSplitter
from parley_server.providers.openai.chunk import text_of
from parley_server.providers.openai.responses_event import (
    WireEvent,
    arguments_of_delta,
    decode,
    decode_loosely,
    decode_text,
    key_of_call,
)
from parley_server.providers.openai.usage import UsageMeter
from parley_server.providers.reading.content import Content, Notice, ignore
from parley_server.providers.reading.ending import Evidence, finish_of
from parley_server.providers.reading.error_report import is_error, stands_for_error
from parley_server.providers.reading.events import word_of
from parley_server.providers.reading.failures import error_in_body
from parley_server.providers.reading.json_values import json_of
from parley_server.providers.reading.kept import KeptItems
from parley_server.providers.reading.response_name import NO_NAME, response_name
from parley_server.providers.reading.tool_calls import Piece, arguments_of, key_of, text_of_field

TEXT = "response.output_text.delta"
_ENDS = ("response.completed", "response.incomplete", "response.failed")
_REASONING = ("response.reasoning_summary_text.delta", "response.reasoning_text.delta")
_READ_ITEMS = ("message", "reasoning", "function_call")


class ResponsesReader:
    """Takes the bytes of a body, and pushes into the sink with one flush per feed.

    `on_done` is called at the event that ends the response; nothing after it is read. `origin` names who sent the
    output items, which are kept for the next request if the answer ends with tool calls. `now_s` returns a monotonic
    time in seconds. `notice` is called with the kind of data that was dropped: "count", "content" or "tool_call".
    `document`: the body is declared as JSON, so it may be a whole response.
    """

    def __init__(
        self,
        provider: str,
        sink: Sink,
        *,
        on_done: Callable[[], None],
        origin: str = "",
        now_s: Callable[[], float] = time.monotonic,
        notice: Notice = ignore,
        document: bool = False,
    ) -> None:
        self._provider = provider
        self._sink = sink
        self._on_done = on_done
        self._origin = origin
        self._notice = notice
        self._splitter = EventSplitter(document=document)
        self._content = Content(sink, now_s=now_s, notice=notice)
        self._meter = UsageMeter(on_ignored=lambda: notice("count"))
        self._items = KeptItems()
        self._item_call_ids: set[str] = set()
        self._argued: set[object] = set()  # keys of calls with any arguments
        self._called: set[object] = set()  # keys of calls that have begun
        self._reasoning_kind = ""
        self._name = NO_NAME
        self._word = ""
        self._unread = False
        self._foreign = False

    @property
    def begun(self) -> bool:
        """Whether any text, reasoning or tool call has arrived."""
        return self._content.begun

    @property
    def finished(self) -> bool:
        """Whether the response has ended."""
        return bool(self._word)

    def feed(self, data: bytes) -> None:
        """Take one read. Raises a `ProviderError`."""
        if self._word:
            return
        try:
            self._take(self._splitter.feed(data))
        finally:
            self._push()

    def end(self) -> Finish:
        """End the body and return the finish. Raises a `ProviderError` if the answer is incomplete or malformed."""
        try:
            if not self._word:
                self._take_last()
            finish = finish_of(self._provider, self._content, self._evidence(), self._name)
            if finish.reason is FinishReason.TOOL_CALLS and self._item_call_ids == self._content.tools.ids:
                self._items.push(self._sink, self._origin)
        finally:
            self._content.push_rest()
            self._push()
        return finish

    def cut(self) -> None:
        """Push held content after the body broke off."""
        self._content.push_rest()
        self._sink.flush()

    def _push(self) -> None:
        self._content.push_text()
        if self._meter.changed:
            self._sink.usage(self._meter.usage())
        self._sink.flush()

    # --- events

    def _take(self, events: Iterable[bytes]) -> None:
        # This loop runs for each token: a plain text takes three comparisons.
        texts, join = self._content.texts, self._content.text_join
        for event in events:
            try:
                seen = decode_text(event)
                text = seen.delta
                if seen.type == TEXT and type(text) is str and not join.held:
                    texts.append(text)
                    continue
                wire = decode(event)
            except (ValueError, RecursionError):
                wire = self._repaired(event)
            self._take_other(wire, event)
            if self._word:
                return

    def _repaired(self, event: bytes) -> WireEvent:
        wire = decode_loosely(event)
        if wire is None:
            raise ProviderMalformed(f"{self._provider} sent an unreadable event")
        return wire

    def _take_last(self) -> None:
        """Take the events that the end of the body completes."""
        try:
            self._take(self._splitter.end())
        except ProviderMalformed:
            return  # the stream was cut within an event: truncated, not malformed

    def _take_other(self, wire: WireEvent, event: bytes) -> None:
        kind = wire.type
        if wire.error is not None and is_error(wire.error):
            raise error_in_body(self._provider, wire.error)
        if kind in (TEXT, "response.refusal.delta"):
            self._content.add_text(text_of(wire.delta))
        elif kind == "response.function_call_arguments.delta":
            self._add_arguments(key_of_call(wire), arguments_of_delta(wire.delta))
        elif kind in _REASONING:
            self._reason(kind, text_of(wire.delta))
        elif kind == "response.reasoning_summary_part.added":
            if wire.summary_index and self._reasoning_kind:
                self._reason(_REASONING[0], "\n\n")
        elif kind in ("response.output_item.added", "response.output_item.done"):
            self._take_item(wire, done=kind.endswith("done"))
        elif kind in _ENDS:
            response = wire.response if isinstance(wire.response, dict) else {}
            self._take_end(response, status=kind.removeprefix("response."))
        elif not isinstance(kind, str) or not kind.startswith(("response.", "[DONE]")):
            self._take_foreign(event)

    def _take_foreign(self, event: bytes) -> None:
        """An event of another form: an error, or the whole response as one JSON document."""
        value = json_of(event)
        if stands_for_error(value):
            raise error_in_body(self._provider, value)
        if isinstance(value, dict) and value.get("object") == "response":
            self._take_end(value, status=value.get("status"))
        self._foreign = True

    def _reason(self, kind: str, text: str) -> None:
        """Add reasoning of the first kind that has any: servers may send both a text and its summary."""
        self._reasoning_kind = self._reasoning_kind or (kind if text else "")
        if kind == self._reasoning_kind:
            self._content.add_reasoning(text)

    # --- items

    def _take_item(self, wire: WireEvent, *, done: bool) -> None:
        raw = bytes(wire.item)
        item = json_of(raw)
        if not isinstance(item, dict):
            return
        if item.get("type") == "function_call":
            self._take_call(key_of_call(wire, item), item, done=done)
        if done:
            self._items.add(raw.decode("utf-8", "replace"))
            if item.get("type") not in _READ_ITEMS:
                self._unread = True
                self._notice("content")

    def _take_call(self, key: object, item: dict[str, Any], *, done: bool) -> None:
        if not done or key not in self._called:
            self._called.add(key)
            self._argued.discard(key)
            call_id = text_of_field(item.get("call_id") or item.get("id"))
            self._content.add_call(Piece(key=key_of(key), id=call_id, name=text_of_field(item.get("name"))))
        if done:
            self._item_call_ids.add(text_of_field(item.get("call_id")))
            if key not in self._argued:
                self._add_arguments(key, arguments_of(item.get("arguments")))

    def _add_arguments(self, key: object, arguments: str) -> None:
        if arguments:
            self._argued.add(key)
            self._content.add_call(Piece(key=key_of(key), arguments=arguments))

    # --- the end

    def _take_end(self, response: dict[str, Any], *, status: object) -> None:
        self._meter.add(response.get("usage"))
        error = response.get("error")
        if is_error(error) or status == "failed":
            raise error_in_body(self._provider, error)
        self._content.push_text()
        if not self.begun and not self._items.any:
            self._take_output(response.get("output"))
        details = response.get("incomplete_details")
        reason = word_of(details.get("reason")) if isinstance(details, dict) else ""
        self._name = response_name(response.get("id"), response.get("model"))
        self._word = reason or ("incomplete" if status == "incomplete" else "completed")
        self._on_done()

    def _take_output(self, output: object) -> None:
        """Take the content of a whole response whose parts were not sent before."""
        for index, item in enumerate(output if isinstance(output, list) else ()):
            kind = item.get("type") if isinstance(item, dict) else None
            if kind == "message":
                self._content.add_text(text_of(item.get("content")))
            elif kind == "reasoning":
                self._content.add_reasoning(text_of(item.get("summary")) or text_of(item.get("content")))
            if isinstance(item, dict):
                raw = msgspec.Raw(json.dumps(item).encode())
                self._take_item(WireEvent(output_index=index, item=raw), done=True)

    def _evidence(self) -> Evidence:
        unknown_form = bool(self._foreign or self._splitter.documents or self._splitter.ignored)
        completed = bool(self._word)
        unread = completed and self._unread
        return Evidence(word=self._word, completed=completed, unknown_form=unknown_form, unread=unread)
