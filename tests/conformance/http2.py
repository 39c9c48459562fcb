"""Builds the frames of HTTP/2 that a wire sends, and the faulty ends of a call as proxies and dying peers send them."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass

import grpc
from hpack import Encoder, NeverIndexedHeaderTuple
from parley.v1 import errors_pb2

DATA, HEADERS, RST_STREAM, GOAWAY, CONTINUATION = 0, 1, 3, 7, 9
END_STREAM, END_HEADERS, PADDED, PRIORITY = 1, 4, 8, 0x20
FRAME_BYTES = 16_384

ERRORS = (
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
)
"""The error codes of RFC 9113, by number."""

PAGE_AFTER_S = 0.2
"""Where a page directly follows its headers, gRPC's library for Python sometimes reports the end of the stream instead
of the HTTP status."""
PAGE = b"<html><body>The server behind this proxy does not answer.</body></html>"
Fields = Iterable[tuple[str | bytes, str | bytes]]


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Returns a frame; DATA that is too long for one becomes several."""
    if kind == DATA and len(payload) > FRAME_BYTES:
        first = frame(DATA, 0, stream, payload[:FRAME_BYTES])
        return first + frame(kind, flags, stream, payload[FRAME_BYTES:])
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


class HeaderWriter:
    """Writes the header fields of one direction without a table, so that any block can be left out or added."""

    def __init__(self) -> None:
        self._encoder = Encoder()

    def frames(self, stream: int, fields: Fields, *, ends: bool) -> bytes:
        """Returns HEADERS, and CONTINUATION for a long block. `ends`: nothing follows on the stream."""
        block = self._encoder.encode([NeverIndexedHeaderTuple(*field) for field in fields], huffman=False)
        pieces = [block[at : at + FRAME_BYTES] for at in range(0, len(block), FRAME_BYTES)]
        out = b""
        for index, piece in enumerate(pieces):
            flags = END_HEADERS if index == len(pieces) - 1 else 0
            if index == 0:
                out += frame(HEADERS, flags | (END_STREAM if ends else 0), stream, piece)
            else:
                out += frame(CONTINUATION, flags, stream, piece)
        return out


def rst_stream(stream: int, error: str) -> bytes:
    """Returns the frame that ends one stream with an error code of RFC 9113, by its name."""
    return frame(RST_STREAM, 0, stream, ERRORS.index(error).to_bytes(4, "big"))


def goaway(last_stream: int, error: str) -> bytes:
    """Returns the frame that announces the end of a connection; streams above `last_stream` were not processed."""
    return frame(GOAWAY, 0, 0, last_stream.to_bytes(4, "big") + ERRORS.index(error).to_bytes(4, "big"))


def torn(stream: int, *, begun: bool) -> bytes:
    """Returns the first bytes of a frame, as of a peer that dies while it writes. `begun`: it has sent its headers."""
    kind, flags = (DATA, 0) if begun else (HEADERS, END_HEADERS)
    return frame(kind, flags, stream, b"\0\0\0\0\x64" + bytes(95))[:20]


@dataclass(frozen=True)
class FaultyEnd:
    """An end of one call that no Parley server sends, on a connection that lives on.

    Kinds: `rst` (RST_STREAM with `code`, an error of RFC 9113), `end` (END_STREAM without trailers), `half` (the same
    within a message), `http` (an HTML page with the HTTP status `code`), `status` (the gRPC status `code` without a
    message; with `reason` also with Parley's trailer). Raises ValueError for other kinds.
    """

    kind: str
    code: str | int
    reason: str = ""

    def frames(self, stream: int, headers: HeaderWriter, *, begun: bool) -> tuple[bytes, bytes]:
        """Returns what the client receives at once, and `PAGE_AFTER_S` later. `begun`: it has received the headers of
        the answer."""
        opening = b"" if begun else headers.frames(stream, (*_OK, _GRPC), ends=False)
        match self.kind:
            case "rst":
                return rst_stream(stream, str(self.code)), b""
            case "end":
                return opening + frame(DATA, END_STREAM, stream, b""), b""
            case "half":
                return opening + frame(DATA, END_STREAM, stream, b"\0\0\0\0\x64half"), b""
            case "http":
                assert not begun, "an HTTP status comes before the headers"
                fields = ((":status", str(self.code)), ("content-type", "text/html"))
                return headers.frames(stream, fields, ends=False), frame(DATA, END_STREAM, stream, PAGE)
            case "status":
                return headers.frames(stream, self._trailers(begun=begun), ends=True), b""
        raise ValueError(f"no such end of a call: {self.kind}")

    def _trailers(self, *, begun: bool) -> Fields:
        code: int = grpc.StatusCode[str(self.code)].value[0]
        fields = [*(() if begun else (*_OK, _GRPC)), ("grpc-status", str(code))]
        if self.reason:
            reason = errors_pb2.ErrorReason.Value(f"ERROR_REASON_{self.reason}")
            error = errors_pb2.ReplyError(code=code, reason=reason, message="a defect", metadata={"call_id": "call-1"})
            value = base64.b64encode(error.SerializeToString()).decode().rstrip("=")
            fields.append(("parley-error-bin", value))
        return fields


_OK = ((":status", "200"),)
_GRPC = ("content-type", "application/grpc")
FAULTY_ENDS = ("rst", "end", "half", "http", "status")
