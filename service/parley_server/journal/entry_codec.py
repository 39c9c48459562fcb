"""Encodes single log entries as text, for the files of the text journal and for Redis."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from parley_server.core.events import Content, Entry, TextDelta, Unknown

_to_json = msgspec.json.Encoder().encode
_of_json: Callable[[str], Entry] = msgspec.json.Decoder(Content).decode


def encode(entry: Entry) -> str:
    """Encode text as `t` and the text itself, which is cheap for the most frequent entry; all others as JSON, which
    begins with a brace."""
    if type(entry) is TextDelta:
        return "t" + entry.text
    return _to_json(entry).decode()


def decode(value: str) -> Entry:
    """Decode an entry. An entry of a newer release becomes `Unknown`, so that it keeps its number."""
    if value.startswith("t"):
        return TextDelta(value[1:])
    try:
        return _of_json(value)
    except msgspec.MsgspecError:
        return Unknown()
