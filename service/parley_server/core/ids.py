"""Creates ids that sort by creation time and cannot be guessed."""

from __future__ import annotations

import base64
import os

RANDOM_BYTES = 10
ID_CHARACTERS = 26
PADDING_BITS = 2


class _Entropy:
    """Random bytes of the operating system, read for 256 ids at a time to save system calls."""

    def __init__(self) -> None:
        self._bytes = b""
        self._used = 0

    def forget(self) -> None:
        self._bytes = b""

    def take(self) -> bytes:
        if self._used + RANDOM_BYTES > len(self._bytes):
            self._bytes, self._used = os.urandom(256 * RANDOM_BYTES), 0
        self._used += RANDOM_BYTES
        return self._bytes[self._used - RANDOM_BYTES : self._used]


_entropy = _Entropy()
os.register_at_fork(after_in_child=_entropy.forget)  # so that a forked process does not create the same ids


def new_id(now_us: int) -> str:
    """An id of 26 characters (0-9, a-v): 48 bits of milliseconds, then 80 random bits. Not thread-safe."""
    raw = (now_us // 1000).to_bytes(6, "big") + _entropy.take()
    return base64.b32hexencode(raw)[:ID_CHARACTERS].decode().lower()


def id_bytes(identifier: str) -> bytes | None:
    """The 16 bytes of an id that `new_id` has made; None for any other text."""
    if len(identifier) != ID_CHARACTERS or not identifier.isalnum():
        return None
    try:
        return (int(identifier, 32) >> PADDING_BITS).to_bytes(16, "big")  # Python's digits are those of `b32hexencode`
    except ValueError:
        return None
