"""The format in Redis: keys, stream entries, and published messages.

- `parley:{ID}`: a hash with the state of a reply. `fence`: the lowest epoch that may append; `writer`: the last epoch
  that did; `cancel`: a cancel was requested; `ended`: the epoch in which it ended; `owner`: time of the owner's last
  heartbeat; `seen`: last time a reader on another replica was reported; `since`: time of the first append or heartbeat,
  from which readers are counted. Also the channel of the reply's appends and its end.
- `parley:{ID}:log:EPOCH`: a stream with one entry per log entry; entry ids are `NUMBER-0`.
- `parley:replica:ID`: the channel of an owner; also a key that it sets as a heartbeat while it owns no running reply.
- `parley:erased`: the channel of erased replies.
- `parley:rate:KEY`: a sorted set with the messages that an end user has sent within the last minute: the id of each
  request, with its time by Redis' clock in ms. KEY is a hash, so that Redis has no names of users.
- `parley:rate:probe`: such a set that is only written to check whether Redis can be used.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from parley_server.core.events import Entry, Unknown
from parley_server.journal import entry_codec

ERASED_CHANNEL = b"parley:erased"
RATE_PROBE_KEY = b"parley:rate:probe"
CLOSED_FENCE = 2**53  # above every epoch; the largest integer that Lua's numbers hold exactly


class PeerMessage(msgspec.Struct, array_like=True, frozen=True):
    """A message on a reply's channel: entries from `number` on; or, with None, its end, and `number` is the last."""

    epoch: int
    number: int
    entries: tuple[str, ...] | None = None


_to_msgpack = msgspec.msgpack.Encoder().encode
_message = msgspec.msgpack.Decoder(PeerMessage).decode
_replies = msgspec.msgpack.Decoder(tuple[str, ...]).decode


def reply_key(reply_id: str) -> bytes:
    """The key of a reply's hash, and the name of its channel."""
    # The braces are a hash tag, which would keep the keys of a reply on one node of a Redis Cluster (not supported).
    return b"parley:{%b}" % reply_id.encode()


def stream_key(reply_id: str, epoch: int) -> bytes:
    """The key of the stream that a writer of this epoch appends to."""
    return b"parley:{%b}:log:%d" % (reply_id.encode(), epoch)


def replica_channel(replica_id: str) -> bytes:
    """The channel on which an owner receives cancel requests, and the key of its heartbeat."""
    return b"parley:replica:%b" % replica_id.encode()


def rate_key(key: str) -> bytes:
    """The key of an end user's messages of the last minute."""
    return b"parley:rate:%b" % key.encode()


def decode_bytes(value: bytes) -> Entry:
    """Decode an entry of a stream; `Unknown` if it is not UTF-8."""
    try:
        return entry_codec.decode(value.decode())
    except UnicodeDecodeError:
        return Unknown()


def pack(epoch: int, number: int, entries: list[str]) -> bytes:
    """Encode entries from `number` on, in the form that is both appended and published."""
    return _to_msgpack((epoch, number, entries))


def unpack(data: bytes) -> PeerMessage | None:
    """Decode a message of a reply's channel; None if this release cannot decode it."""
    try:
        return _message(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def pack_replies(reply_ids: Sequence[str]) -> bytes:
    """Encode the ids of erased replies."""
    return _to_msgpack(reply_ids)


def unpack_replies(data: bytes) -> tuple[str, ...]:
    """Decode the ids of erased replies; empty if this release cannot decode them."""
    try:
        return _replies(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ()
