"""The bytes of frames."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parley_server.rpc.http2 import frames
from parley_server.rpc.http2.frames import Code, ConnectionFault

ids = st.integers(0, 2**31 - 1)


@given(st.integers(0, 255), st.integers(0, 255), ids, st.binary(max_size=50))
def test_a_frame(kind, flags, stream_id, payload):
    data = frames.frame(kind, flags, stream_id, payload)
    assert data == len(payload).to_bytes(3) + bytes((kind, flags)) + stream_id.to_bytes(4) + payload


@given(st.integers(0, 2**24 - 1))
def test_a_header_of_any_length(length):
    assert int.from_bytes(frames.header(0, 0, 1, length)[:3]) == length


@given(ids, st.binary(max_size=50))
def test_a_message_in_one_frame(stream_id, message):
    whole = frames.message_header(stream_id, len(message)) + message
    assert whole == frames.frame(frames.DATA, 0, stream_id, frames.message_prefix(len(message)) + message)


@pytest.mark.parametrize("length", [16_379, 70_000, 2**24 - 6])
def test_a_long_message_in_one_frame(length):
    assert frames.message_header(3, length) == frames.header(0, 0, 3, length + 5) + frames.message_prefix(length)


@given(st.lists(st.tuples(st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1)), max_size=5))
def test_settings_are_read_back(pairs):
    assert frames.parse_settings(frames.settings(*pairs)[9:]) == pairs


def test_small_frames():
    assert frames.window_update(3, 2**31 - 1).hex() == "000004080000000003" + "7fffffff"
    assert frames.reset(3, Code.CANCEL).hex() == "000004030000000003" + "00000008"
    assert frames.go_away(5, Code.ENHANCE_YOUR_CALM, "hm").hex() == "00000a070000000000" + "000000050000000b" + "686d"
    assert frames.SETTINGS_ACK.hex() == "000000040100000000"


@given(st.binary(max_size=20), st.integers(0, 255))
def test_padding(content, size):
    payload = bytes((size,)) + content + bytes(size)
    assert frames.unpadded(frames.PADDED, payload) == content
    assert frames.unpadded(0, payload) == payload


@pytest.mark.parametrize("payload", [b"", b"\1", b"\5abcd"])
def test_more_padding_than_payload(payload):
    with pytest.raises(ConnectionFault):
        frames.unpadded(frames.PADDED, payload)
