"""One event of a Messages API stream: a struct for the fast path, and a lenient decoder for unusual events.

The struct has only the fields in use, of any type, so that one unusual value does not fail an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from parley_server.providers.reading.json_values import json_of

TEXT_DELTA = "text_delta"
KNOWN_DELTAS = (TEXT_DELTA, "thinking_delta", "signature_delta", "input_json_delta", "citations_delta")


class Delta(msgspec.Struct, gc=False):
    """What an event adds to a content block, or to the message: then `stop_reason`."""

    type: Any = None
    text: Any = None
    thinking: Any = None
    signature: Any = None
    partial_json: Any = None
    citation: Any = None
    stop_reason: Any = None


class WireEvent(msgspec.Struct, gc=False):
    """One event of the stream."""

    type: Any = None
    index: Any = None
    delta: Delta | None = None
    content_block: Any = None
    message: Any = None
    usage: Any = None
    error: Any = None


decode: Callable[[bytes], WireEvent] = msgspec.json.Decoder(WireEvent).decode
"""Decodes an event. Raises ValueError; `decode_loosely` may still read the event then."""


def decode_loosely(event: bytes) -> WireEvent | None:
    """The event of JSON with unusual types, lone surrogates or invalid UTF-8; None if it has none.

    A `text` string becomes a list, so that the reader leaves its fast path and joins surrogates.
    """
    if event.strip(b' "') == b"[DONE]":
        return WireEvent(type="message_stop")  # some gateways end every stream as OpenAI does
    value = json_of(event)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]  # some servers put an error into a list of one
    if not isinstance(value, dict):
        return None
    fields = {field: value.get(field) for field in WireEvent.__struct_fields__}
    return WireEvent(**(fields | {"delta": _delta(value.get("delta"))}))


def string_of(value: object) -> str:
    """The text of a field, which `decode_loosely` may have put into a list; empty for any other value."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value if isinstance(value, str) else ""


def _delta(value: object) -> Delta | None:
    if not isinstance(value, dict):
        return None
    delta = Delta(**{field: value.get(field) for field in Delta.__struct_fields__})
    if isinstance(delta.text, str):
        delta.text = [delta.text]
    return delta
