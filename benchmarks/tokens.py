"""The numbered, time-stamped tokens of the upstream, and the check that a reader received all of them in order."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable
from typing import NamedTuple

WIDTH = 9
NUMBER_SPAN = 36**2
STAMP_SPAN = 36**6
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
MODEL = re.compile(r"t(\d+)-p(\d+)(?:-f(\d+))?")


class Shape(NamedTuple):
    """The reply of a model: the number of tokens, the time between them, and the delay before the first."""

    tokens: int
    pace_ms: int
    first_ms: int


def now_us() -> int:
    """Microseconds of CLOCK_MONOTONIC, the clock of the upstream's time stamps."""
    return time.monotonic_ns() // 1000


def base36(value: int, digits: int) -> str:
    """`value` in base 36, padded with zeros."""
    out = ""
    for _ in range(digits):
        value, digit = divmod(value, 36)
        out = DIGITS[digit] + out
    return out


def shape(model: str) -> Shape:
    """The shape encoded in a model's name, such as `t100-p50` or `t2-p0-f6000`."""
    match = MODEL.fullmatch(model)
    if match is None:
        raise ValueError(f"no shape in the model's name: {model}")
    return Shape(int(match[1]), int(match[2]), int(match[3] or 0))


def token(number: int, stamp_us: int) -> str:
    """One token in the upstream's format."""
    return f" {base36(number % NUMBER_SPAN, 2)}{base36(stamp_us % STAMP_SPAN, 6)}"


class Transcript:
    """One reply as received by one reader: its tokens with the times of their sending and of their arrival.

    `accepted` is called with the reply's id, `channel` is the index of the connection, and `retry_s` is the delay in
    the RetryInfo of a refusal."""

    __slots__ = (
        *("_accepted", "channel", "ended", "expected", "fault", "messages", "retry_s", "seen_us", "sent"),
        "started_us",
    )

    def __init__(self, expected: int, accepted: Callable[[str], None] | None = None) -> None:
        self._accepted = accepted
        self.channel = 0
        self.retry_s: float | None = None
        self.expected = expected
        self.started_us = now_us()
        self.seen_us: list[int] = []
        self.sent: list[int] = []
        self.messages = 0
        self.ended = False
        self.fault = ""

    def accept(self, reply_id: str) -> None:
        """Record the acceptance."""
        if self._accepted is not None:
            self._accepted(reply_id)

    def take(self, text: str) -> None:
        """Record text; it must continue the previous text without a gap or a repetition."""
        seen = now_us()
        self.messages += 1
        if len(text) % WIDTH:
            self.fault = self.fault or "a token was cut"
            return
        for at in range(0, len(text), WIDTH):
            if int(text[at + 1 : at + 3], 36) != len(self.seen_us) % NUMBER_SPAN:
                self.fault = self.fault or "a token was lost, repeated or out of order"
            self.seen_us.append(seen)
            self.sent.append(int(text[at + 3 : at + WIDTH], 36))

    def end(self) -> None:
        """Record the terminal chunk; the whole text must have arrived."""
        if self.ended:
            self.fault = self.fault or "two ends"
        self.ended = True
        if len(self.seen_us) != self.expected:
            self.fault = self.fault or "the end came before the last token"

    def first_token_us(self) -> int:
        """The time from the start of the call to its first token."""
        return self.seen_us[0] - self.started_us

    def late_us(self) -> list[int]:
        """For each token, the time from the upstream's write to its arrival."""
        return [
            (seen - sent + STAMP_SPAN // 2) % STAMP_SPAN - STAMP_SPAN // 2
            for seen, sent in zip(self.seen_us, self.sent, strict=True)
        ]

    def gaps_us(self) -> list[int]:
        """The times between the arrivals of successive tokens."""
        return [later - earlier for earlier, later in itertools.pairwise(self.seen_us)]

    def gap_changes_us(self) -> list[int]:
        """The absolute difference of each gap between tokens at the reader and at the upstream."""
        late = self.late_us()
        return [abs(later - earlier) for earlier, later in itertools.pairwise(late)]
