"""The protocol between the supervisor and a worker, over a private socket pair.

The supervisor sends orders of one byte. If it dies in any way, the worker reads the end of the stream and drains. The
worker sends one line: `Ready` or `Refused`.
"""

from __future__ import annotations

import msgspec

STOP = b"s"
HURRY = b"h"
RELOAD = b"r"


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The worker serves. Its metrics are on this loopback port; 0 if there are none. `page_url`: the address of the
    chat page, if this worker serves it."""

    metrics_port: int
    page_url: str = ""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The worker cannot start; `problem` is the message for the operator."""

    problem: str


WorkerReport = Ready | Refused

_decoder: msgspec.json.Decoder[WorkerReport] = msgspec.json.Decoder(WorkerReport)


def encode(report: WorkerReport) -> bytes:
    """Encode a report as a line."""
    return msgspec.json.encode(report) + b"\n"


def decode(line: bytes) -> WorkerReport:
    """Decode a line."""
    return _decoder.decode(line)
