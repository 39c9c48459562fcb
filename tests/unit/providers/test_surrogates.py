"""Halves of surrogate pairs find each other, and nothing else is touched."""

import itertools

from hypothesis import given
from hypothesis import strategies as st
from parley_server.providers.reading.surrogates import SurrogateJoin

texts = st.text(st.characters(codec="utf-8") | st.sampled_from("😀🏳𝄞é日"))


def joined(pieces):
    join = SurrogateJoin()
    out = [join.add(piece) for piece in pieces] + [join.rest()]
    for piece in out:
        piece.encode()  # whole code points, or it raises
    return "".join(out)


def halves(text):
    """One character per UTF-16 unit, as JSON's escapes have them."""
    units = text.encode("utf-16-le")
    return "".join(chr(int.from_bytes(units[at : at + 2], "little")) for at in range(0, len(units), 2))


@given(texts, st.lists(st.integers(0, 100)))
def test_cuts_between_any_units_are_healed(text, cuts):
    units = halves(text)
    places = sorted({0, len(units), *[cut for cut in cuts if cut < len(units)]})
    assert joined([units[start:end] for start, end in itertools.pairwise(places)]) == text


@given(st.lists(st.text(st.characters() | st.characters(categories=["Cs"]))))
def test_whatever_comes_becomes_valid(pieces):
    whole = "".join(pieces).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert joined(pieces) == whole


def test_a_half_waits_over_empty_pieces():
    assert joined(["a\ud83d", "", "\ude00b"]) == "a😀b"
    assert joined(["\ud83d"]) == "\ufffd"
