"""Split surrogate pairs are joined; other text is unchanged."""

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
    """One character for each UTF-16 unit, like JSON's escapes."""
    units = text.encode("utf-16-le")
    return "".join(chr(int.from_bytes(units[at : at + 2], "little")) for at in range(0, len(units), 2))


@given(texts, st.lists(st.integers(0, 100)))
def test_pairs_split_between_texts_are_joined(text, cuts):
    units = halves(text)
    places = sorted({0, len(units), *[cut for cut in cuts if cut < len(units)]})
    assert joined([units[start:end] for start, end in itertools.pairwise(places)]) == text


@given(st.lists(st.text(st.characters() | st.characters(categories=["Cs"]))))
def test_any_input_becomes_valid_text(pieces):
    whole = "".join(pieces).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert joined(pieces) == whole


def test_a_half_is_held_across_empty_texts():
    assert joined(["a\ud83d", "", "\ude00b"]) == "a😀b"
    assert joined(["\ud83d"]) == "\ufffd"
