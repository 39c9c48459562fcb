"""The providers read recorded streams of real vendors correctly, however their bytes are cut.

`PARLEY_RECORDINGS` names their folder; `tests/recordings/folder.py` says what it must hold.
"""

import pytest

from tests.recordings.cuts import ends_of_events, escaped, ways_to_cut, with_crlf
from tests.recordings.dialects import DIALECTS
from tests.recordings.folder import VARIABLE, recordings, streams_of
from tests.recordings.reading import fed, read_over_a_socket
from tests.upstream import Close, Raw, Script

FOLDER = recordings()
if FOLDER is None:
    pytest.skip(f"{VARIABLE} names no folder of recorded answers", allow_module_level=True)

STREAMS = [
    pytest.param(dialect, path, id=name)
    for dialect in DIALECTS
    for name, path in streams_of(FOLDER, dialect.name).items()
]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"

each_stream = pytest.mark.parametrize(("dialect", "path"), STREAMS)


@each_stream
async def test_read_whole_over_a_socket(dialect, path):
    """As chunks behind the head, and with the head and the end in one write."""
    body = path.read_bytes()
    one_write = HEAD + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    for script in (Script([body]), Script(before_head=[Raw(one_write), Close()])):
        assert await read_over_a_socket(dialect, script) == dialect.read_plainly(body)


@each_stream
async def test_a_connection_that_breaks_before_the_terminator_is_a_failure(dialect, path):
    body = path.read_bytes()
    readings = beginnings(dialect, body)
    incomplete = [place for place, reading in readings if reading.end == "PROVIDER_TRUNCATED"]
    cut = body[: incomplete[-1]]
    read = await read_over_a_socket(dialect, Script([cut, Close()]))
    assert (read.end, read.text, read.reasoning) == ("PROVIDER_TRUNCATED", *_said(dialect.read_plainly(cut)))


@each_stream
def test_the_same_however_it_is_cut(dialect, path):
    body = path.read_bytes()
    expected = dialect.read_plainly(body)
    for form, same in (("", body), ("CR LF, ", with_crlf(body)), ("escaped, ", escaped(body))):
        if form and same == body:
            continue
        whole, runs = fed(dialect, [same])
        assert whole == expected, f"{form}whole"
        for way, reads in ways_to_cut(same, seed=path.name):
            assert fed(dialect, reads) == (expected, runs), form + way


@each_stream
def test_never_complete_before_its_terminator(dialect, path):
    body = path.read_bytes()
    for place, expected in beginnings(dialect, body):
        read, _ = fed(dialect, [body[:place]])
        assert (read.end, *_said(read)) == (expected.end, *_said(expected)), f"ended after {place} bytes"


def beginnings(dialect, body):
    """The plain reading of every beginning of the body that ends with an event."""
    reading = dialect.plain()
    yield 0, reading.outcome()
    start = 0
    for end in ends_of_events(body):
        reading.add_all(body[start:end])
        start = end
        yield end, reading.outcome()


def _said(outcome):
    return outcome.text, outcome.reasoning
