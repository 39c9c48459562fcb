"""Entries and messages for other replicas, of this release and of others."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from parley_server.core.events import TextDelta, ToolCallDelta, Unknown
from parley_server.journal import entry_codec
from parley_server.relay import wire

from tests.fakes import entries


@given(st.lists(entries(), max_size=5), st.integers(1, 2**40), st.integers(1, 2**40))
def test_encoded_entries_are_decoded_unchanged(written, epoch, number):
    values = [entry_codec.encode(entry) for entry in written]
    assert [wire.decode_bytes(value.encode()) for value in values] == written
    message = wire.unpack(wire.pack(epoch, number, values))
    assert message == wire.PeerMessage(epoch, number, tuple(values))
    assert [entry_codec.decode(value) for value in message.entries] == written


def test_text_is_encoded_with_a_letter_before_it():
    assert entry_codec.encode(TextDelta('{"a": "b"}')) == 't{"a": "b"}'
    assert entry_codec.encode(ToolCallDelta(2, arguments="x")).startswith("{")


@pytest.mark.parametrize("value", ["", "x", "{", '{"type":"video"}', '{"type":"text"}', '{"text":"x"}', "[]", "7"])
def test_values_that_cannot_be_decoded_are_unknown(value):
    assert entry_codec.decode(value) == Unknown()
    assert wire.decode_bytes(value.encode()) == Unknown()


def test_bytes_that_are_not_utf8_are_unknown():
    assert wire.decode_bytes(b"t\xff\xfe") == Unknown()


def test_extra_fields_of_a_newer_release_are_ignored():
    known = entry_codec.encode(TextDelta("text"))
    assert wire.unpack(msgspec.msgpack.encode((1, 2, [known], "more", {}))) == wire.PeerMessage(1, 2, (known,))
    assert entry_codec.decode('{"type":"tool_call","index":1,"more":true}') == ToolCallDelta(1)


@given(st.binary(max_size=40))
@example(b"\x93\x00\x00\x91\xa6\x00\x00\x00\x00\x00\x80")  # an entry that is not UTF-8
@example(b"\x91\xa1\x80")
def test_decoding_any_bytes_does_not_raise(data):
    wire.unpack(data)
    assert all(isinstance(each, str) for each in wire.unpack_replies(data))


def test_an_end_differs_from_an_empty_range():
    assert wire.unpack(msgspec.msgpack.encode((3, 17))) == wire.PeerMessage(3, 17, None)
    assert wire.unpack(wire.pack(3, 17, [])) == wire.PeerMessage(3, 17, ())


def test_all_keys_of_a_reply_have_its_hash_tag():
    assert wire.reply_key("r-1") == b"parley:{r-1}"
    assert wire.stream_key("r-1", 4) == b"parley:{r-1}:log:4"
