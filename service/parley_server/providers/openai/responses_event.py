"""One event of a stream of the Responses API: structs for the usual events, and a lenient decoder for others."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec

from parley_server.providers.reading.json_values import json_of
from parley_server.providers.reading.tool_calls import arguments_of


class TextEvent(msgspec.Struct, gc=False):
    """The fields of nearly every event, which are decoded first, because each further field costs CPU per token."""

    type: Any = None
    delta: Any = None


class WireEvent(msgspec.Struct, gc=False):
    """One event: the fields in use, of any type, so that one unusual value does not fail an answer."""

    type: Any = None
    delta: Any = None
    output_index: Any = None
    item_id: Any = None
    summary_index: Any = None
    item: msgspec.Raw = msgspec.Raw()
    response: Any = None
    error: Any = None


decode_text: Callable[[bytes], TextEvent] = msgspec.json.Decoder(TextEvent).decode
decode: Callable[[bytes], WireEvent] = msgspec.json.Decoder(WireEvent).decode


def decode_loosely(event: bytes) -> WireEvent | None:
    """The event with lone surrogates or invalid UTF-8; None if it is no object. A `delta` string becomes a list, so
    that it leaves the reader's fast path."""
    if event.strip(b' "') == b"[DONE]":
        return WireEvent(type="[DONE]")
    value = json_of(event)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]  # some servers put an error into a list of one
    if not isinstance(value, dict):
        return None
    delta, item = value.get("delta"), value.get("item")
    return WireEvent(
        type=value.get("type"),
        delta=[delta] if isinstance(delta, str) else delta,
        output_index=value.get("output_index"),
        item_id=value.get("item_id"),
        summary_index=value.get("summary_index"),
        item=msgspec.Raw(b"" if item is None else json.dumps(item).encode()),
        response=value.get("response"),
        error=value.get("error"),
    )


def arguments_of_delta(delta: object) -> str:
    """The arguments in a delta, which `decode_loosely` may have put into a list."""
    return arguments_of(delta[0] if isinstance(delta, list) and len(delta) == 1 else delta)


def key_of_call(wire: WireEvent, item: dict[str, Any] | None = None) -> object:
    """Identifies a call within a response: its place in the output, or the id of its item."""
    if wire.output_index is not None:
        return str(wire.output_index)
    return str(wire.item_id or (item or {}).get("id") or "")
