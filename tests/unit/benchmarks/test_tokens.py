"""The text of a reader is checked token by token, however it was cut into pieces."""

from __future__ import annotations

import pytest

from benchmarks.tokens import Transcript, token

PIECE = 9
TEXT = "".join(token(number, 5) for number in range(4))


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
def test_wrong_text_is_a_fault(pieces: list[str], fault: str) -> None:
    transcript = Transcript(4)
    for piece in pieces:
        transcript.take(piece)
    transcript.end()
    assert transcript.fault == fault
