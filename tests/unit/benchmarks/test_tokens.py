"""What a reader has is checked token by token, whatever pieces it came in."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from benchmarks.callers import Connection
from benchmarks.tokens import Shape, Transcript, shape, token

TEXT = "".join(token(number, 5) for number in range(4))
PIECE = 9


@pytest.mark.parametrize(
    ("model", "expected"),
    [("t500-p0", Shape(500, 0, 0)), ("t60-p200", Shape(60, 200, 0)), ("t2-p0-f6000", Shape(2, 0, 6000))],
)
def test_the_shape_is_in_the_name(model: str, expected: Shape) -> None:
    assert shape(model) == expected


def test_a_name_without_a_shape_is_an_error() -> None:
    with pytest.raises(ValueError, match="no shape"):
        shape("t500")


@pytest.mark.parametrize(
    ("pieces", "fault"),
    [
        ([TEXT], ""),
        ([TEXT[:PIECE], TEXT[PIECE:]], ""),
        ([TEXT[PIECE:]], "a token was lost, repeated or out of order"),
        ([TEXT[:PIECE], TEXT[:PIECE], TEXT[PIECE:]], "a token was lost, repeated or out of order"),
        ([TEXT[:5], TEXT[5:]], "a token was cut"),
        ([TEXT[:-PIECE]], "the end came before the last token"),
    ],
)
def test_what_is_not_the_text_is_a_fault(pieces: list[str], fault: str) -> None:
    transcript = Transcript(4)
    for piece in pieces:
        transcript.take(piece)
    transcript.end()
    assert transcript.fault == fault


class Wire:
    """Takes what is written, and is closed."""

    def __init__(self) -> None:
        self.closed = False

    def write(self, data: bytes) -> None:
        """Sent."""

    def close(self) -> None:
        self.closed = True


def events(tokens: str) -> bytes:
    parts = [tokens[at : at + PIECE] for at in range(0, len(tokens), PIECE)]
    body = "".join(f'data: {{"choices":[{{"delta":{{"content":"{part}"}}}}]}}\n\n' for part in parts)
    return ("HTTP/1.1 200 OK\r\n\r\n" + body + "data: [DONE]\n\n").encode()


async def ask(transcript: Transcript, wire: Wire) -> tuple[Connection, Any]:
    connection = Connection()
    connection.connection_made(wire)
    return connection, connection.ask(b"POST", transcript)


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
async def test_http_tokens_are_found_wherever_a_read_ends(size: int) -> None:
    transcript = Transcript(4)
    connection, over = await ask(transcript, Wire())
    data = events(TEXT)
    for at in range(0, len(data), size):
        connection.data_received(data[at : at + size])
    assert await over == "OK"
    assert (transcript.fault, transcript.ended, len(transcript.seen_us)) == ("", True, 4)


async def test_an_http_refusal_ends_the_call() -> None:
    wire = Wire()
    connection, over = await ask(Transcript(4), wire)
    connection.data_received(b"0\r\n\r\nHTTP/1.1 429 Too Many Requests\r\n\r\n")
    assert await over == "HTTP 429"
    assert wire.closed
    assert connection.closed


async def test_a_connection_that_is_lost_cuts_its_call() -> None:
    connection, over = await ask(Transcript(4), Wire())
    connection.data_received(events(TEXT)[:80])
    connection.connection_lost(None)
    assert await asyncio.wait_for(over, 1) == "CUT"
