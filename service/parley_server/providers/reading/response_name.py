"""Reads how a provider names its answer. Shared by all dialects."""

from __future__ import annotations

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


def _text(value: object) -> str:
    return utf8_prefix(clean(value), MAX_NAME_BYTES) if isinstance(value, str) else ""
