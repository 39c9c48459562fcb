"""Detects a process that was forked after its parent had used gRPC, in which gRPC hangs or crashes.

It follows the channels of this package only: those that an application opens itself are not seen.
"""

from __future__ import annotations

import os

_has_channel = False
_is_forked = False
_kept: list[object] = []


def open_in_this_process() -> None:
    """Records that this process has a channel. Raises RuntimeError like `check`."""
    global _has_channel
    check()
    _has_channel = True


def is_forked() -> bool:
    """True in a process that was forked after its parent had opened a channel, so that it cannot use gRPC."""
    return _is_forked


def check() -> None:
    """Raises RuntimeError in a process that cannot use gRPC."""
    if _is_forked:
        raise RuntimeError(
            "this process was forked after its parent had used a Parley client, and gRPC does not survive a fork: make "
            "the first call in the child process"
        )


def keep(part_of_parent: object) -> None:
    """Keeps an object of the parent: a call that is freed is cancelled, which writes to the parent's socket."""
    _kept.append(part_of_parent)


def _after_fork() -> None:
    global _is_forked
    _is_forked = _is_forked or _has_channel


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
