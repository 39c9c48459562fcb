"""The scripts that run in Redis, each in a file of its own beside this one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import hiredis


def command(*words: bytes | str | int) -> bytes:
    """A command as it goes over the wire."""
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type] # the stub knows of one word alone
    return packed


class Script:
    """A script by its file's name; what is called is its hash, so that its text is sent but once."""

    def __init__(self, name: str) -> None:
        source = Path(__file__).with_name(f"{name}.lua").read_bytes()
        self._hash = hashlib.sha1(source, usedforsecurity=False).hexdigest()
        self.load = command("SCRIPT", "LOAD", source)

    def call(self, keys: Iterable[bytes], *arguments: bytes | str | int) -> bytes:
        """The command that runs it."""
        keys = tuple(keys)
        return command("EVALSHA", self._hash, len(keys), *keys, *arguments)


APPEND = Script("append")
ENDED = Script("ended")
ERASE = Script("erase")
HEARTBEAT = Script("heartbeat")
PROBE = Script("probe")
SEEN = Script("seen")
TAKE_OVER = Script("take_over")
WISH = Script("wish")

LOAD_ALL = [each.load for each in (APPEND, ENDED, ERASE, HEARTBEAT, PROBE, SEEN, TAKE_OVER, WISH)]
