"""Page tokens: opaque to callers, and valid only for the query that returned them."""

from __future__ import annotations

import base64
import hashlib
from typing import TypeVar

import msgspec

from parley_server.core.field_checks import too_large
from parley_server.errors import InvalidRequest

MAX_PAGE_TOKEN = 2048
"""The longest token of this server has some 1,500 characters: names of 128 characters in UTF-8, encoded in base64."""

C = TypeVar("C")


def page_token_of(cursor: object, query: msgspec.Struct) -> str:
    """The token of the page of `query` that begins after `cursor`."""
    return base64.urlsafe_b64encode(msgspec.json.encode((_digest(query), cursor))).decode()


def cursor_of(token: str, query: msgspec.Struct, kind: type[C]) -> C | None:
    """The cursor in a token of the same query; None for an empty token. Raises `InvalidRequest`."""
    if not token:
        return None
    if len(token) > MAX_PAGE_TOKEN:
        raise too_large("page_token", f"{MAX_PAGE_TOKEN} characters")
    try:
        digest, cursor = msgspec.json.decode(base64.urlsafe_b64decode(token), type=tuple[str, kind])  # type: ignore[valid-type]  # a type made at run time
    except (ValueError, msgspec.MsgspecError) as error:
        raise InvalidRequest.field("page_token", "is not a token that a page has returned") from error
    if digest != _digest(query):
        raise InvalidRequest.field("page_token", "belongs to another query")
    return cursor


def _digest(query: msgspec.Struct) -> str:
    return hashlib.sha256(msgspec.json.encode(query, order="sorted")).hexdigest()[:16]
