"""Header fields: requests as gRPC reads them, responses and trailers as bytes.

HPACK is read by a library, and written as literals alone, so that a response costs no table."""

from __future__ import annotations

import base64
import binascii
import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote_from_bytes

import grpc

from parley_server.rpc.http2.frames import Code, StreamFault

Metadata = tuple[tuple[str, str | bytes], ...]
Field = tuple[bytes, bytes]

CONTENT_TYPE: Final = b"application/grpc"
ENCODINGS: Final = ("identity", "gzip", "deflate")
_UNIT_S: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT: Final = re.compile(r"([0-9]{1,8})([HMSmun])")
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_FORBIDDEN: Final = re.compile(rb"[\0\r\n]")
_GRPC: Final = re.compile(r"application/grpc([+;].*)?")
_LENGTH: Final = re.compile(rb"[0-9]{1,18}")
_OUR_NAME: Final = re.compile(r"[0-9a-z_.\-]+")
_OUR_TEXT: Final = re.compile(r"[\x20-\x7e]*")
_PSEUDO: Final = frozenset({b":method", b":path", b":scheme", b":authority"})
_CONNECTION: Final = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
_TRANSPORT: Final = frozenset({"te", "content-type", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding"})


@dataclass(frozen=True, slots=True)
class Head:
    """The header fields of a request. `timeout_s` is None without a deadline; `encoding` is that of its messages."""

    method: str
    path: str
    content_type: str
    timeout_s: float | None
    encoding: str
    metadata: Metadata

    @property
    def is_grpc(self) -> bool:
        """Whether its content type is gRPC's; `application/grpc-web` is not."""
        return _GRPC.fullmatch(self.content_type) is not None


def read(stream_id: int, fields: Iterable[Field]) -> Head:
    """A request's header fields. Raises `StreamFault` for what HTTP/2 calls malformed (RFC 9113, 8.1.1)."""
    pseudo: dict[bytes, bytes] = {}
    plain: dict[str, str] = {}
    metadata: list[tuple[str, str | bytes]] = []
    for name, value in fields:
        if _FORBIDDEN.search(value):
            raise StreamFault(stream_id, Code.PROTOCOL_ERROR)
        if name[:1] == b":":
            if metadata or plain or name in pseudo or name not in _PSEUDO:
                raise StreamFault(stream_id, Code.PROTOCOL_ERROR)
            pseudo[name] = value
            continue
        if not _NAME.fullmatch(name) or name in _CONNECTION or (name == b"te" and value != b"trailers"):
            raise StreamFault(stream_id, Code.PROTOCOL_ERROR)
        key = name.decode()
        if key in _TRANSPORT:
            plain[key] = _text(value)
        elif key.endswith("-bin"):
            metadata += ((key, _binary(each)) for each in value.split(b","))
        else:
            metadata.append((key, _text(value)))
    if not (pseudo.get(b":method") and pseudo.get(b":path") and pseudo.get(b":scheme")):
        raise StreamFault(stream_id, Code.PROTOCOL_ERROR)
    return Head(
        method=_text(pseudo[b":method"]),
        path=_text(pseudo[b":path"]),
        content_type=plain.get("content-type", ""),
        timeout_s=_seconds(stream_id, plain["grpc-timeout"]) if "grpc-timeout" in plain else None,
        encoding=plain.get("grpc-encoding", "identity"),
        metadata=tuple(metadata),
    )


def check_trailers(stream_id: int, fields: Iterable[Field]) -> None:
    """Raises `StreamFault` for trailers of a request that hold what trailers must not; otherwise they mean nothing."""
    for name, _ in fields:
        if not _NAME.fullmatch(name) or name in _CONNECTION:
            raise StreamFault(stream_id, Code.PROTOCOL_ERROR)


def content_length(fields: Iterable[Field]) -> int | None:
    """What the request says of its length; None where it says nothing, -1 for nonsense."""
    for name, value in fields:
        if name == b"content-length":
            return int(value) if _LENGTH.fullmatch(value) else -1
    return None


def response(metadata: Sequence[tuple[str, str | bytes]] = ()) -> bytes:
    """The block of the header fields that accept a call."""
    return _ACCEPTED if not metadata else _ACCEPTED + b"".join(_metadata(metadata))


def trailers(code: grpc.StatusCode, message: str, metadata: Sequence[tuple[str, str | bytes]], *, alone: bool) -> bytes:
    """The block that ends a call; `alone` where no header fields went before. Raises ValueError for metadata that no
    client would take."""
    block = [_OPENING] if alone else []
    block.append(_literal(b"grpc-status", str(code.value[0]).encode()))
    if message:
        block.append(_literal(b"grpc-message", quote_from_bytes(message.encode(errors="replace"), _UNQUOTED).encode()))
    return b"".join([*block, *_metadata(metadata)])


def http_answer(status: int) -> bytes:
    """The block of an answer to what is no gRPC, with a line of text to come."""
    return _literal(b":status", str(status).encode()) + _literal(b"content-type", b"text/plain")


def _metadata(metadata: Iterable[tuple[str, str | bytes]]) -> Iterable[bytes]:
    for name, value in metadata:
        if not _OUR_NAME.fullmatch(name) or name.endswith("-bin") != isinstance(value, bytes):
            raise ValueError(f"metadata cannot be named {name!r}, or not for a {type(value).__name__}")
        if isinstance(value, bytes):
            yield _literal(name.encode(), base64.b64encode(value).rstrip(b"="))
        elif _OUR_TEXT.fullmatch(value):
            yield _literal(name.encode(), value.encode())
        else:
            raise ValueError(f"metadata {name} is not of printable ASCII")


def _literal(name: bytes, value: bytes) -> bytes:
    """A literal field without indexing, its name and value plain (RFC 7541, 6.2.2)."""
    return b"".join((b"\0", _length(len(name)), name, _length(len(value)), value))


@functools.lru_cache(maxsize=1024)
def _length(size: int) -> bytes:
    """An integer with a prefix of seven bits (RFC 7541, 5.1)."""
    if size < 127:
        return bytes((size,))
    size -= 127
    coded = bytearray((127,))
    while size > 127:
        coded.append(size & 127 | 128)
        size >>= 7
    coded.append(size)
    return bytes(coded)


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _binary(value: bytes) -> bytes:
    """Base64 with or without padding; what is neither is taken as it came."""
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        return value


def _seconds(stream_id: int, timeout: str) -> float:
    found = _TIMEOUT.fullmatch(timeout)
    if found is None:
        raise StreamFault(stream_id, Code.PROTOCOL_ERROR)
    return int(found[1]) * _UNIT_S[found[2]]


_UNQUOTED: Final = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
_OPENING: Final = b"\x88" + _literal(b"content-type", CONTENT_TYPE)
_ACCEPTED: Final = _OPENING + _literal(b"grpc-accept-encoding", ",".join(ENCODINGS).encode())
