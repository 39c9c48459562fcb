"""Reads one message of the user, which may have several lines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

BLOCK: Final = '"""'


def read_message(read: Callable[[str], str]) -> str:
    r"""Read a message. `read` takes a prompt, returns a line without its newline, and raises EOFError at the end.

    A backslash at the end of a line continues the message on the next line. Three double quotes at the start of a line
    open a block, which ends with three double quotes at the end of a line or with the end of the input.
    """
    first = read("> ")
    if first.lstrip().startswith(BLOCK):
        return _block(first.lstrip()[len(BLOCK) :], read)
    lines = [first]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        line = _next(read)
        if line is None:
            break
        lines.append(line)
    return "\n".join(lines).strip()


def _block(begun: str, read: Callable[[str], str]) -> str:
    lines = [begun] if begun.strip() else []
    while not (lines and lines[-1].rstrip().endswith(BLOCK)):
        line = _next(read)
        if line is None:
            break
        lines.append(line)
    return "\n".join(lines).rstrip().removesuffix(BLOCK).strip("\n")


def _next(read: Callable[[str], str]) -> str | None:
    try:
        return read(". ")
    except EOFError:
        return None
