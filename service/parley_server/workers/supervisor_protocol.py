"""What a supervisor and a worker say to each other, over a pair of sockets that nobody else has.

The supervisor sends orders of one byte; when it dies, however it dies, the worker reads the end, which is an order to
stop. The worker sends one line: that it serves, or why it does not.
"""

from __future__ import annotations

import msgspec

STOP = b"s"
HURRY = b"h"


class Ready(msgspec.Struct, frozen=True, tag=True):
    """It serves; its metrics are at this port of loopback, or nowhere (0)."""

    metrics_port: int


class Refused(msgspec.Struct, frozen=True, tag=True):
    """It cannot start, and why."""

    problem: str


News = Ready | Refused

_decoder: msgspec.json.Decoder[News] = msgspec.json.Decoder(News)


def encode(news: News) -> bytes:
    """The line of these news."""
    return msgspec.json.encode(news) + b"\n"


def decode(line: bytes) -> News:
    """The news of a line."""
    return _decoder.decode(line)
