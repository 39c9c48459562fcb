"""Header blocks as they arrive: put together from their frames, within bounds, and decoded."""

from __future__ import annotations

import re
from typing import Final, cast

from hpack import Decoder
from hpack.exceptions import HPACKError, OversizedHeaderListError

from parley_server.rpc.http2.frames import (
    END_HEADERS,
    HAS_PRIORITY,
    MAX_WINDOW,
    Code,
    ConnectionFault,
    expect,
    unpadded,
)
from parley_server.rpc.http2.headers import Field

BLOCK_BYTES: Final = 32 * 1024
LIST_BYTES: Final = 32 * 1024
_RESIZED_TOO_OFTEN: Final = re.compile(rb"(?:[\x20-\x3e]|\x3f[\x80-\xff]*[\x00-\x7f]){3}")
"""More changes of the table's size than a block may begin with (RFC 7541, 4.2). Each costs us more than its byte."""


class Blocks:
    """`open` says that a block has begun and not ended: no other frame may come."""

    __slots__ = ("_block", "_decoder", "_flags", "_stream_id", "open")

    def __init__(self) -> None:
        self.open = False
        self._decoder = Decoder(max_header_list_size=LIST_BYTES)
        self._stream_id = self._flags = 0
        self._block = bytearray()

    def begin(self, flags: int, stream_id: int, payload: bytes) -> bool:
        """HEADERS; whether the block is complete."""
        expect(stream_id % 2 == 1, Code.PROTOCOL_ERROR, "HEADERS on a stream that is not a client's")
        content = unpadded(flags, payload)
        if flags & HAS_PRIORITY:
            expect(len(content) >= 5, Code.FRAME_SIZE_ERROR, "HEADERS are short")
            depends_on = int.from_bytes(content[:4]) & MAX_WINDOW
            expect(depends_on != stream_id, Code.PROTOCOL_ERROR, "a stream depends on itself")
            content = content[5:]
        self._stream_id, self._flags, self._block = stream_id, flags, bytearray(content)
        self.open = not flags & END_HEADERS
        return not self.open

    def go_on(self, flags: int, stream_id: int, payload: bytes) -> bool:
        """CONTINUATION; whether the block is complete."""
        expect(self.open and self._stream_id == stream_id, Code.PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._block += payload
        expect(len(self._block) <= BLOCK_BYTES, Code.ENHANCE_YOUR_CALM, "a header block is too large")
        self.open = not flags & END_HEADERS
        return not self.open

    def take(self) -> tuple[int, int, list[Field]]:
        """What is complete: the flags of its HEADERS, its stream and its fields."""
        block, self._block = bytes(self._block), bytearray()
        expect(not _RESIZED_TOO_OFTEN.match(block), Code.COMPRESSION_ERROR, "a table is resized again and again")
        try:
            fields = cast("list[Field]", self._decoder.decode(block, raw=True))
        except OversizedHeaderListError:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "the header fields are too large") from None
        except (HPACKError, IndexError, UnicodeDecodeError) as error:
            raise ConnectionFault(Code.COMPRESSION_ERROR, "a header block makes no sense") from error
        return self._flags, self._stream_id, fields
