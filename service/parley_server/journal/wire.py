"""How logs are named and written in Redis: keys, entries, and what is published.

`parley:{ID}` is a hash of what is known of a reply: `fence` (the lowest epoch that may append), `writer` (the last one
that did), `cancel`, `ended`, `since` and `seen` (from when on nobody, and when somebody, was known to read elsewhere),
`owner` (its last heartbeat). `parley:{ID}:log:EPOCH` is a stream with one entry for each of the log's, `NUMBER-0`. What
is appended, and that a reply has ended, is published on the channel `parley:{ID}`. `parley:replica:ID` is the channel
of an owner, and a key that it sets while it writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from parley_server.core.replies.events import Content, Entry, TextDelta, Unknown

ERASED_CHANNEL = b"parley:erased"
NOBODY_PASSES = 2**53  # a fence above every epoch, and a number that Lua still counts exactly

_to_json = msgspec.json.Encoder().encode
_of_json: Callable[[str], Entry] = msgspec.json.Decoder(Content).decode


class Message(msgspec.Struct, array_like=True, frozen=True):
    """What is published of a reply: entries from `number` on, or None: it has ended, and `number` is the last."""

    epoch: int
    number: int
    entries: tuple[str, ...] | None = None


_to_msgpack = msgspec.msgpack.Encoder().encode
_message = msgspec.msgpack.Decoder(Message).decode
_replies = msgspec.msgpack.Decoder(tuple[str, ...]).decode


def reply_key(reply_id: str) -> bytes:
    """The hash of a reply, and the channel on which its news are published."""
    return b"parley:{%b}" % reply_id.encode()


def stream_key(reply_id: str, epoch: int) -> bytes:
    """What a writer of this epoch has appended."""
    return b"parley:{%b}:log:%d" % (reply_id.encode(), epoch)


def replica_channel(replica_id: str) -> bytes:
    """Where an owner hears of wishes; and a key of its own."""
    return b"parley:replica:%b" % replica_id.encode()


def encode(entry: Entry) -> str:
    """Text as it is behind a letter, anything else as JSON, which begins with a brace."""
    if type(entry) is TextDelta:
        return "t" + entry.text
    return _to_json(entry).decode()


def decode(value: str) -> Entry:
    """What a newer release has written in its own way takes its number, and is `Unknown`."""
    if value.startswith("t"):
        return TextDelta(value[1:])
    try:
        return _of_json(value)
    except msgspec.MsgspecError:
        return Unknown()


def decode_bytes(value: bytes) -> Entry:
    """The same, of what a stream holds."""
    try:
        return decode(value.decode())
    except UnicodeDecodeError:
        return Unknown()


def pack(epoch: int, number: int, entries: list[str]) -> bytes:
    """A stretch of a log, from `number` on, as it is both appended and published."""
    return _to_msgpack((epoch, number, entries))


def unpack(data: bytes) -> Message | None:
    """What was published; None where this release does not understand it."""
    try:
        return _message(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def pack_replies(reply_ids: tuple[str, ...]) -> bytes:
    """Which replies were erased."""
    return _to_msgpack(reply_ids)


def unpack_replies(data: bytes) -> tuple[str, ...]:
    """The same; none where this release does not understand it."""
    try:
        return _replies(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ()
