"""The Lua scripts that run in Redis, each from the file of its name beside this module."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import hiredis

REPLIES_PER_CALL = 64
"""Limit of replies in one call of a script, because Redis serves no other client while a script runs."""

T = TypeVar("T")


def command(*words: bytes | str | int) -> bytes:
    """Encode a command in Redis' protocol."""
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type] # the stub allows only one word
    return packed


def groups(items: Sequence[T], size: int = REPLIES_PER_CALL) -> list[Sequence[T]]:
    """The items in their order, in groups of at most `size`."""
    return [items[start : start + size] for start in range(0, len(items), size)]


class Script:
    """A script by its file's name. It is called by its hash, so that its text is sent only once."""

    def __init__(self, name: str) -> None:
        source = Path(__file__).with_name(f"{name}.lua").read_bytes()
        self._hash = hashlib.sha1(source, usedforsecurity=False).hexdigest()
        self.load = command("SCRIPT", "LOAD", source)

    def call(self, keys: Iterable[bytes], *arguments: bytes | str | int) -> bytes:
        """The command that runs the script."""
        keys = tuple(keys)
        return command("EVALSHA", self._hash, len(keys), *keys, *arguments)


PING = command("PING")

APPEND = Script("append")
CANCEL = Script("cancel")
ENDED = Script("ended")
ERASE = Script("erase")
HEARTBEAT = Script("heartbeat")
PROBE = Script("probe")
RATE_LOOK = Script("rate_look")
RATE_TAKE = Script("rate_take")
SEEN = Script("seen")
TAKE_OVER = Script("take_over")

LOAD_ALL = [
    each.load for each in (APPEND, CANCEL, ENDED, ERASE, HEARTBEAT, PROBE, RATE_LOOK, RATE_TAKE, SEEN, TAKE_OVER)
]
