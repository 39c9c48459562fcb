"""Decodes JSON that may be invalid, and encodes what was decoded."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from parley_server.errors import ProviderRejected
from parley_server.providers.reading.events import clean


def json_of(event: bytes) -> Any:
    """The JSON of an event, even with invalid UTF-8 or lone surrogates; None if it is not JSON."""
    try:
        return json.loads(event.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def json_object(text: str, what: str) -> dict[str, Any]:
    """The JSON object in a text. Raises `ProviderRejected` if there is none; `what` names the text."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        raise ProviderRejected(f"the {what} is not a JSON object") from None


def json_text(value: object) -> str:
    """The JSON of a decoded value, with U+FFFD in place of lone surrogates, which no request can contain; `null` for a
    value that is nested too deeply."""
    try:
        return clean(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    except RecursionError:
        return "null"


def is_object(text: str) -> bool:
    """Whether a text is a JSON object, whose nesting can be decoded."""
    try:
        msgspec.json.decode(text, type=dict[str, Any])
    except (ValueError, RecursionError):
        return False
    return True
