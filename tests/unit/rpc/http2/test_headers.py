"""Header fields: what a request says, and that what we write is read back."""

from __future__ import annotations

import base64
from urllib.parse import unquote

import grpc
import pytest
from hpack import Decoder
from hypothesis import given
from hypothesis import strategies as st
from parley_server.rpc.http2 import frames, headers
from parley_server.rpc.http2.frames import Code, StreamFault

NEEDED = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/s/M"), (b"content-type", b"application/grpc")]

names = st.from_regex(r"[a-z0-9_.\-]{1,40}", fullmatch=True).filter(lambda name: not name.endswith("-bin"))
texts = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=300)
pairs = st.one_of(st.tuples(names, texts), st.tuples(names.map(lambda name: f"{name}-bin"), st.binary(max_size=300)))


def decoded(block: bytes) -> list[tuple[bytes, bytes]]:
    return [tuple(field) for field in Decoder(max_header_list_size=10**8).decode(block, raw=True)]


def plain(fields: list[tuple[bytes, bytes]]) -> list[tuple[str, str | bytes]]:
    """As a client reads it."""
    found: list[tuple[str, str | bytes]] = []
    for name, value in fields:
        key = name.decode()
        found.append(
            (key, base64.b64decode(value + b"=" * (-len(value) % 4)) if key.endswith("-bin") else value.decode())
        )
    return found


OPENING = [(":status", "200"), ("content-type", "application/grpc")]
ACCEPTED = [*OPENING, ("grpc-accept-encoding", "identity,gzip,deflate")]


@given(st.lists(pairs, max_size=5))
def test_a_response_is_read_back(metadata):
    assert plain(decoded(headers.response(metadata))) == [*ACCEPTED, *metadata]


@given(st.sampled_from(list(grpc.StatusCode)), st.text(max_size=200), st.lists(pairs, max_size=3), st.booleans())
def test_trailers_are_read_back(code, text, metadata, alone):
    fields = plain(decoded(headers.trailers(code, text, metadata, alone=alone)))
    expected = [*(OPENING if alone else []), ("grpc-status", str(code.value[0]))]
    assert fields[: len(expected)] == expected
    rest = fields[len(expected) :]
    if text:
        name, value = rest.pop(0)
        assert name == "grpc-message"
        assert all(0x20 <= ord(each) <= 0x7E for each in value)
        assert unquote(value, errors="strict") == text
    assert rest == metadata


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 254, 255, 16_382, 16_383, 16_510, 16_511, 2_100_000])
def test_values_of_all_lengths(size):
    assert decoded(headers.response([("x", "y" * size)]))[-1] == (b"x", b"y" * size)


@pytest.mark.parametrize(
    "bad", [("Upper", "x"), ("", "x"), (":path", "x"), ("x y", "x"), ("x-bin", "text"), ("x", b"x")]
)
def test_metadata_that_cannot_be(bad):
    with pytest.raises(ValueError, match="metadata cannot be named"):
        headers.response([bad])


@pytest.mark.parametrize("bad", ["a\nb", "a\0", "\x7f", "\u00fc"])
def test_text_that_cannot_be(bad):
    with pytest.raises(ValueError, match="printable ASCII"):
        headers.response([("x", bad)])


def test_half_a_character_in_a_status():
    fields = dict(decoded(headers.trailers(grpc.StatusCode.INTERNAL, "\ud800!", (), alone=False)))
    assert fields[b"grpc-message"] == b"?!"


def test_an_http_answer():
    assert decoded(headers.http_answer(415)) == [(b":status", b"415"), (b"content-type", b"text/plain")]


# --- requests


def read(*more, fields=NEEDED):
    return headers.read(7, [*fields, *more])


def fault(*more, fields=NEEDED):
    with pytest.raises(StreamFault) as raised:
        read(*more, fields=fields)
    assert (raised.value.stream_id, raised.value.code) == (7, Code.PROTOCOL_ERROR)


def test_a_request():
    head = read(
        (b"te", b"trailers"), (b"grpc-encoding", b"gzip"), (b"grpc-accept-encoding", b"x"), (b"user-agent", b"u")
    )
    assert head == headers.Head("POST", "/s/M", "application/grpc", None, "gzip", (("user-agent", "u"),))
    assert head.is_grpc


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_pseudo_field_is_missing_or_empty(missing):
    fault(fields=[each for number, each in enumerate(NEEDED) if number != missing])
    fault(fields=[(name, b"" if number == missing else value) for number, (name, value) in enumerate(NEEDED)])


@pytest.mark.parametrize(
    "again", [NEEDED[0], NEEDED[2], (b":authority", b"x"), (b":status", b"200"), (b":protocol", b"x")]
)
def test_a_pseudo_field_that_must_not_be(again):
    fault(fields=[*NEEDED[:3], again, again])
    fault(again)  # after one that is none
    assert read(fields=[(b":authority", b"x"), *NEEDED]).path == "/s/M"


@pytest.mark.parametrize("name", [b"", b"Upper", b"a b", b"a:b", b"\xff", b"x\n", b"x\0"])
def test_names_that_cannot_be(name):
    fault((name, b"x"))


@pytest.mark.parametrize("name", [b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"])
def test_fields_of_a_connection(name):
    fault((name, b"x"))
    with pytest.raises(StreamFault):
        headers.check_trailers(7, [(name, b"x")])


@pytest.mark.parametrize("name", [b":path", b"Upper"])
def test_trailers_that_cannot_be(name):
    headers.check_trailers(7, [(b"x-checksum", b"1")])
    with pytest.raises(StreamFault):
        headers.check_trailers(7, [(name, b"x")])


@pytest.mark.parametrize("value", [b"a\nb", b"a\rb", b"a\0b"])
def test_values_that_cannot_be(value):
    fault((b"x", value))
    fault(fields=[*NEEDED[:2], (b":path", value)])


@pytest.mark.parametrize("value", [b"", b"gzip", b"trailers, x"])
def test_te(value):
    fault((b"te", value))


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [
        *[(b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"4m", 0.004), (b"5u", 5e-6), (b"6n", 6e-9), (b"0S", 0)],
        (b"99999999H", 99999999 * 3600),
    ],
)
def test_timeouts(timeout, seconds):
    assert read((b"grpc-timeout", timeout)).timeout_s == pytest.approx(seconds)


@pytest.mark.parametrize(
    "timeout", [b"", b"1", b"S", b"1s", b"1h", b"-1S", b"1.5S", b"123456789S", b"1S ", b"\xd9\xa1S"]
)
def test_timeouts_that_are_none(timeout):
    fault((b"grpc-timeout", timeout))


@given(st.binary(max_size=50))
def test_binary_metadata_with_and_without_padding(value):
    coded = base64.b64encode(value)
    expected = (("x-bin", value),)
    assert read((b"x-bin", coded)).metadata == read((b"x-bin", coded.rstrip(b"="))).metadata == expected


def test_binary_metadata_that_is_joined_or_none():
    assert read((b"x-bin", b"AA==,AQ")).metadata == (("x-bin", b"\0"), ("x-bin", b"\1"))
    assert read((b"x-bin", b"!?")).metadata == (("x-bin", b"!?"),)
    assert read((b"x-bin", b"A")).metadata == (("x-bin", b"A"),)


def test_text_metadata_keeps_its_order_and_may_be_latin_1():
    fields = [(b"b", b"1"), (b"a", b"2"), (b"b", b"3"), (b"c", "\u00fc".encode("latin-1")), (b"d", "\u00fc".encode())]
    assert read(*fields).metadata == (("b", "1"), ("a", "2"), ("b", "3"), ("c", "\u00fc"), ("d", "\u00fc"))


@pytest.mark.parametrize(
    ("content_type", "is_grpc"),
    [
        *[("application/grpc", True), ("application/grpc+proto", True), ("application/grpc;x=y", True)],
        *[("application/grpc-web", False), ("application/grpcx", False), ("", False), ("text/plain", False)],
    ],
)
def test_content_types(content_type, is_grpc):
    head = read(fields=[*NEEDED[:3], (b"content-type", content_type.encode())])
    assert head.is_grpc is is_grpc


@pytest.mark.parametrize(
    ("value", "length"),
    [(b"0", 0), (b"17", 17), (b"-1", -1), (b"+1", -1), (b"", -1), (b"1x", -1), (b"9" * 5000, -1), (b"1_0", -1)],
)
def test_content_length(value, length):
    assert headers.content_length([(b"a", b"b"), (b"content-length", value)]) == length
    assert headers.content_length([(b"a", b"b")]) is None


# --- blocks in frames


@given(st.binary(max_size=100), st.integers(1, 30), st.booleans())
def test_a_block_is_split_as_the_peer_asks(block, max_frame, end_stream):
    data = frames.header_block(5, block, end_stream=end_stream, max_frame=max_frame)
    found, whole = [], b""
    while data:
        size = int.from_bytes(data[:3])
        assert size <= max_frame
        assert int.from_bytes(data[5:9]) == 5
        found.append((data[3], data[4]))
        whole, data = whole + data[9 : 9 + size], data[9 + size :]
    assert whole == block
    first, last = found[0], found[-1]
    assert [kind for kind, _ in found] == [frames.HEADERS] + [frames.CONTINUATION] * (len(found) - 1)
    assert bool(first[1] & frames.END_STREAM) is end_stream
    assert [bool(bits & frames.END_HEADERS) for _, bits in found] == [False] * (len(found) - 1) + [True]
    assert last[1] & frames.END_HEADERS
