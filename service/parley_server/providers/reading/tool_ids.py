"""Converts ids of tool calls to those that an endpoint accepts. Vendors refuse ids of other vendors, and duplicates."""

from __future__ import annotations

import hashlib
import re
import string

from parley_server.settings import ToolIds

HASHED_CHARACTERS = 9
_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ALLOWED = {"long": re.compile(r"[A-Za-z0-9_-]{1,40}"), "short": re.compile(r"[A-Za-z0-9]{9}")}


class ToolIdMap:
    """The ids of one prompt. Its calls and results must be converted in order, each result after its call.

    An id that the endpoint refuses, or a repeated one, becomes 9 base-62 characters of the SHA-256 of the id and its
    number among equal ids. So equal prompts get equal ids, which keeps the vendor's prompt cache effective.
    """

    def __init__(self, allowed: ToolIds) -> None:
        self._allowed = _ALLOWED[allowed]
        self._seen: dict[str, int] = {}
        self._open: dict[str, list[str]] = {}

    def of_call(self, call_id: str) -> str:
        """The id to send for the next call."""
        before = self._seen.get(call_id, 0)
        self._seen[call_id] = before + 1
        sent = _hashed(f"{call_id}\0{before}") if before else self._as_taken(call_id)
        self._open.setdefault(call_id, []).append(sent)
        return sent

    def of_kept_call(self, call_id: str) -> None:
        """Note the next call, which is sent as the vendor sent it, so that its result is sent with the same id."""
        self._seen[call_id] = self._seen.get(call_id, 0) + 1
        self._open.setdefault(call_id, []).append(call_id)

    def of_result(self, call_id: str) -> str:
        """The id to send for the next result: that of the oldest call with this id that has no result yet."""
        calls = self._open.get(call_id)
        return calls.pop(0) if calls else self._as_taken(call_id)

    def _as_taken(self, call_id: str) -> str:
        return call_id if self._allowed.fullmatch(call_id) else _hashed(call_id)


def _hashed(text: str) -> str:
    number = int.from_bytes(hashlib.sha256(text.encode()).digest(), "big")
    characters = []
    for _ in range(HASHED_CHARACTERS):
        number, digit = divmod(number, len(_BASE62))
        characters.append(_BASE62[digit])
    return "".join(characters)
