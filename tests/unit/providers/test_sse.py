"""The events of a stream do not depend on how its bytes are split."""

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parley_server.errors import ProviderMalformed
from parley_server.providers.http.sse import EventSplitter

LINES = [
    b"data: a",
    b"data: {}",
    b"data:b",
    b"data:  c",
    b"data",
    b"data:",
    b"data: ",
    b": comment",
    b":",
    b"event: x",
    b"id: 1",
    b"retry: 5",
    b"database: no",
    b" data: no",
    b"DATA: no",
    b"junk",
    "data: Größe 日本 😀".encode(),
    b"",
    b"",
    b"",
]
streams = st.lists(st.tuples(st.sampled_from(LINES), st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"])), max_size=30).map(
    lambda lines: b"".join(line + end for line, end in lines)
)

BLOCKS = [
    *["data: a", "event: x|data: b", "event: x|data:b", "event: x", "data: ", ": c", "data: a|data: b"],
    *["event: x|data: a|data: b", ": c|data: a", "data: a\rdata: b", "data: a\r|data: b"],
]


def split(*pieces, end=True):
    splitter = EventSplitter()
    events = [event for piece in pieces for event in splitter.feed(piece)]
    return events + splitter.end() if end else events


def by_the_specification(stream):
    """The events by the algorithm of the specification: line by line over the whole stream."""
    events, data = [], []
    text = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    for line in [*text.split(b"\n"), b""]:
        name, _, value = line.partition(b":")
        if not line:
            if b"\n".join(data):
                events.append(b"\n".join(data))
            data = []
        elif name == b"data":
            data.append(value.removeprefix(b" "))
    return events


@given(streams, st.lists(st.integers(0, 400), max_size=20), st.booleans())
def test_any_split_gives_the_events_of_the_specification(stream, cuts, bom):
    stream = b"\xef\xbb\xbf" + stream if bom else stream
    places = sorted({0, len(stream), *[cut for cut in cuts if cut < len(stream)]})
    pieces = [stream[start:end] for start, end in itertools.pairwise(places)]
    assert split(*pieces) == by_the_specification(stream)
    assert split(stream) == by_the_specification(stream)
    assert split(*[bytes([byte]) for byte in stream]) == by_the_specification(stream)


def test_an_event_is_returned_with_its_last_byte():
    splitter = EventSplitter()
    assert [splitter.feed(bytes([byte])) for byte in b"data: a\n\n"] == [[]] * 8 + [[b"a"]]
    assert [splitter.feed(piece) for piece in (b"data: b\r", b"\n\r", b"\ndata: c", b"\n\n")] == [
        [],
        [b"b"],
        [],
        [b"c"],
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_read_of_several_events_gives_the_events_of_the_specification(end):
    for blocks in itertools.product(BLOCKS, repeat=3):
        stream = "".join(block.replace("|", end) + 2 * end for block in blocks).encode()
        assert split(stream) == by_the_specification(stream), stream


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"event: x\ndata: a\n\nevent: y\ndata: b\n\n", [b"a", b"b"]),
    ],
)
def test_regular_events_take_a_fast_path(stream, events, monkeypatch):
    monkeypatch.delattr(EventSplitter, "_lines")
    assert EventSplitter().feed(stream) == events


def test_several_data_lines_are_one_event():
    assert split(b"data: a\ndata:b\n\ndata: c\n\n", end=False) == [b"a\nb", b"c"]
    assert split(b"data: a\n", b"data: b\n\n", end=False) == [b"a\nb"]


@pytest.mark.parametrize("piece_bytes", [1, 3, 1000])
@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b'{"error": 1}\ndata: a\n\n', [b'{"error": 1}', b"a"]),
        (b'data: a\n\n[{\n  "error": {\n}\n}\n]\n', [b"a", b'[{\n  "error": {\n}\n}\n]']),
        (b'error: {"code": 500}\n', [b'{"error":{"code": 500}}']),
        (b'error: it broke: "x"\n', [b'{"error":"it broke: \\"x\\""}']),
        (b'{"a": 1}', [b'{"a": 1}']),
        (b"<html>\n{oops\n", None),
    ],
)
def test_json_outside_of_fields_is_an_event(stream, events, piece_bytes):
    pieces = [stream[start : start + piece_bytes] for start in range(0, len(stream), piece_bytes)]
    if events is None:
        with pytest.raises(ProviderMalformed, match="incomplete"):
            split(*pieces)
    else:
        assert split(*pieces) == events


def test_json_outside_of_fields_is_bounded():
    splitter = EventSplitter()
    for _ in range(1000):
        splitter.feed(b"[\n" + b" " * 1000 + b"1,\n")
    assert splitter.ignored
    assert splitter._stray_bytes <= 64 * 1024


def test_a_document_may_be_as_large_as_an_event():
    body = b'{"text":\n"' + b"x" * 500_000 + b'"}'
    assert EventSplitter().feed(body) == []
    splitter = EventSplitter(document=True)
    assert [*splitter.feed(body), *splitter.end()] == [body]
    assert splitter.documents == 1


def test_an_incomplete_event_is_held():
    assert split(b"data: a\n\ndata: b", end=False) == [b"a"]
    assert split(b"data: a\n\ndata: b", b"c\n\n", end=False) == [b"a", b"bc"]
    assert split(b"data: a\n\ndata: b\n", b"\ndata: c\n\n", end=False) == [b"a", b"b", b"c"]


@pytest.mark.parametrize("line", [b"data: %s", b": %s", b"data: a\ndata: %s"])
@pytest.mark.parametrize("piece_bytes", [1000, 10**6])
def test_an_event_that_is_too_large_is_refused(line, piece_bytes):
    splitter = EventSplitter(max_event_bytes=50_000)
    body = line % (b"x" * 100_000)
    pieces = [body[start : start + piece_bytes] for start in range(0, len(body), piece_bytes)]
    with pytest.raises(ProviderMalformed):
        list(map(splitter.feed, pieces))


def test_large_reads_of_small_events_are_not_too_large():
    splitter = EventSplitter(max_event_bytes=1000)
    assert len(splitter.feed(b"data: x\n\n" * 10_000)) == 10_000
    assert len(splitter.feed(b"data: x\r\n\r\n" * 10_000)) == 10_000


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("piece_bytes", [1, 7, 65_536, 10**9])
def test_splitting_takes_linear_time(end, piece_bytes):
    def seconds(stream):
        splitter = EventSplitter()
        before = time.process_time()
        for start in range(0, len(stream), piece_bytes):
            splitter.feed(stream[start : start + piece_bytes])
        return time.process_time() - before

    strays = (b"{" + end + b"}" + end + b"[" + end + b"x" * 50 + end) * 5000
    assert seconds(strays) < 1.0
    one_event = b"data: " + b"x" * 300_000 + end + end
    many_events = (b"data: xyz" + end + end) * 25_000
    assert seconds(one_event) < 1.0
    assert seconds(many_events) < 1.0
