"""Ways to cut a body into reads. Each returns the positions of the cuts: byte `n` is the first of the next read."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

SEEDED = 20
BYTE_BY_BYTE_LIMIT = 16 * 1024
_ESCAPES = re.compile(rb"\\u[0-9a-f]{4}")


def pieces(body: bytes, places: Iterable[int]) -> list[bytes]:
    """The body in reads; places outside of it are left out."""
    inner = sorted({place for place in places if 0 < place < len(body)})
    return [body[start:end] for start, end in pairwise([0, *inner, len(body)])]


def ways_to_cut(body: bytes, seed: str) -> Iterator[tuple[str, list[bytes]]]:
    """Name and reads of each way that has a cut in this body."""
    for name, places in _ways(body, seed):
        reads = pieces(body, places)
        if len(reads) > 1:
            yield name, reads


def ends_of_events(body: bytes) -> list[int]:
    """The place after each empty line."""
    return [found.end() for found in re.finditer(rb"\r?\n\r?\n", body)]


def with_crlf(body: bytes) -> bytes:
    """The same events with lines that end in CR LF."""
    return body.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def escaped(body: bytes) -> bytes:
    """The same JSON with every character beyond ASCII as an escape: a surrogate pair beyond the basic plane."""
    utf16 = [(character, character.encode("utf-16-be").hex()) for character in set(body.decode()) if character > "\x7f"]
    escapes = {
        ord(character): "".join(rf"\u{units[at : at + 4]}" for at in range(0, len(units), 4))
        for character, units in utf16
    }
    return body.decode().translate(escapes).encode()


def _ways(body: bytes, seed: str) -> Iterator[tuple[str, Iterable[int]]]:
    yield "after each event", ends_of_events(body)
    yield "between LF and LF", [found.start() + 1 for found in re.finditer(rb"\n\n", body)]
    yield "between CR and LF", [found.start() + 1 for found in re.finditer(rb"\r\n", body)]
    yield (
        "within data:",
        [found.start() + at for found in re.finditer(rb"^data:", body, re.MULTILINE) for at in range(7)],
    )
    yield "within code points", [place for place, byte in enumerate(body) if byte & 0xC0 == 0x80]
    yield "within escapes", [found.start() + at for found in _ESCAPES.finditer(body) for at in range(1, 7)]
    yield "between the halves of surrogate pairs", [found.end() for found in re.finditer(rb"\\ud[89ab]..", body)]
    yield "before the last byte", [len(body) - 1]
    done = body.rfind(b"[DONE]")
    for place in range(done - 7, done + 9) if done >= 0 else ():
        yield f"{place - done} bytes after [DONE] begins", [place]
    for number in range(1, SEEDED + 1):
        chance = random.Random(f"{seed} {number}")
        yield f"seeded, {number} cuts", [chance.randrange(1, len(body)) for _ in range(number)]
    if len(body) <= BYTE_BY_BYTE_LIMIT:
        yield "byte by byte", range(len(body))
