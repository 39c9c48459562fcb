"""Reads how a provider names its answer. Shared by all dialects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from parley_server.core.events import utf8_prefix
from parley_server.core.model import Value
from parley_server.providers.reading.events import clean

MAX_NAME_BYTES = 128
"""Limit of UTF-8 bytes of an id and of a model's name."""


class ResponseName(Value, frozen=True, kw_only=True):
    """The provider's id of an answer, and its name of the model that has answered. Empty: the provider states none."""

    id: str = ""
    model: str = ""


NO_NAME = ResponseName()


def response_name(response_id: object, model: object) -> ResponseName:
    """The name in two fields of any type, each cut to `MAX_NAME_BYTES`."""
    return ResponseName(id=_text(response_id), model=_text(model))


class NamedEvent(msgspec.Struct, gc=False):
    """How an event names its answer. A subclass gives the fields the names of its dialect."""

    id: Any = None
    model: Any = None


def name_reader(kind: type[NamedEvent]) -> Callable[[bytes], ResponseName]:
    """Returns a function that reads the name in an event. It returns no name for an invalid event."""
    decode = msgspec.json.Decoder(kind).decode

    def name_in(event: bytes) -> ResponseName:
        try:
            named = decode(event)
        except (ValueError, RecursionError):
            return NO_NAME
        return response_name(named.id, named.model)

    return name_in


def _text(value: object) -> str:
    return utf8_prefix(clean(value), MAX_NAME_BYTES) if isinstance(value, str) else ""
