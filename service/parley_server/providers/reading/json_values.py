"""Decodes JSON from vendors and callers that may be invalid."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from parley_server.errors import ProviderRejected


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
    except msgspec.DecodeError:
        raise ProviderRejected(f"the {what} is not a JSON object") from None
