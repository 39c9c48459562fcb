"""Decompresses bodies of servers that ignore `Accept-Encoding: identity`, as a stream and within bounds."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from parley_server.errors import ProviderMalformed
from parley_server.providers.http.exchange import Feed

MAX_PIECE_BYTES = 64 * 1024
"""Size of a decoded piece."""
MAX_DECODED_BYTES = 64 * 1024 * 1024
"""Limit of bytes that one read may decode to. A stream of events stays far below; a decompression bomb exceeds it."""

_GZIP = 16 + zlib.MAX_WBITS


def decoded(encoding: str, feed: Feed, *, provider: str) -> Feed:
    """A feed that decodes bytes of this `Content-Encoding` and passes them to `feed`.

    Raises `ProviderMalformed` for an encoding other than gzip, deflate and identity. The returned feed raises it for
    bytes that cannot be decoded.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return feed
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise ProviderMalformed(f"{provider} sent its answer in an unsupported content encoding")
    inflater = Inflater(deflate=encoding == "deflate")

    def take(data: bytes) -> None:
        try:
            for piece in inflater.pieces(data):
                feed(piece)
        except zlib.error:
            raise ProviderMalformed(f"{provider} sent an answer that cannot be decompressed") from None

    return take


class Inflater:
    """Decompresses gzip with any number of members, or deflate with or without zlib's header."""

    def __init__(self, *, deflate: bool) -> None:
        self._header = b"" if deflate else None  # of deflate: its two bytes decide between zlib and raw
        self._window = _GZIP
        self._inflate = zlib.decompressobj(self._window)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """The decoded bytes, in pieces of at most `MAX_PIECE_BYTES`. Raises `zlib.error` and `ProviderMalformed`."""
        if self._header is not None:
            data = self._header + data
            if len(data) < 2:
                self._header = data
                return
            self._header = None
            self._window = zlib.MAX_WBITS if _is_zlib(data) else -zlib.MAX_WBITS
            self._inflate = zlib.decompressobj(self._window)
        size = 0
        full = False
        while data or full:
            if self._inflate.eof:
                self._inflate = zlib.decompressobj(self._window)
            piece = self._inflate.decompress(data, MAX_PIECE_BYTES)
            data = self._inflate.unconsumed_tail or self._inflate.unused_data
            full = len(piece) == MAX_PIECE_BYTES and not self._inflate.eof
            size += len(piece)
            if size > MAX_DECODED_BYTES:
                raise ProviderMalformed("the provider sent a compressed answer that is too large")
            if piece:
                yield piece


def _is_zlib(data: bytes) -> bool:
    return data[0] & 0x0F == zlib.DEFLATED and int.from_bytes(data[:2], "big") % 31 == 0
