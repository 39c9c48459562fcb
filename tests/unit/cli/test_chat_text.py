"""The input of the terminal chat, and the wrapping of an answer while it streams."""

import io
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parley_server.cli.chat.input import read_message
from parley_server.cli.chat.wrap import WordWrap, columns_of


def shown(written: str) -> list[str]:
    """The lines of a terminal after these characters; a backspace moves the cursor and erases nothing."""
    lines, column = [[]], 0
    for character in written:
        if character == "\n":
            lines.append([])
            column = 0
        elif character == "\b":
            column -= 1
            assert column >= 0, "back over the start of a line"
        elif columns_of(character):
            cells = [character, *[""] * (columns_of(character) - 1)]
            lines[-1][column : column + len(cells)] = cells
            column += len(cells)
    return ["".join(line).rstrip(" ") for line in lines]


def wrapped(*pieces: str, columns: int = 12) -> list[str]:
    wrap = WordWrap(lambda: columns)
    return shown("".join(wrap.wrap(piece) for piece in pieces))


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        (["one two three four"], ["one two", "three four"]),
        (["one two thr", "ee four"], ["one two", "three four"]),
        (["one two th", "r", "e", "e"], ["one two", "three"]),
        (["one two thre\nfour"], ["one two", "thre", "four"]),
        (["a-word-longer-than-a-line"], ["a-word-long", "er-than-a-l", "ine"]),
        (["hi a-word-longer-than-a-line"], ["hi", "a-word-long", "er-than-a-l", "ine"]),
        (["elevenchars x"], ["elevenchars", "x"]),
        (["日本語のテキスト"], ["日本語のテ", "キスト"]),
        (["ab 日本語", "のテ"], ["ab 日本語の", "テ"]),
    ],
)
def test_words_are_wrapped_whole(pieces, lines):
    assert wrapped(*pieces) == lines


@given(st.text("abc  \n日é\u0301", max_size=60), st.lists(st.integers(0, 60), max_size=5), st.integers(3, 20))
def test_wrapping_does_not_depend_on_the_pieces(text, cuts, columns):
    ends = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(ends)]
    lines = wrapped(*pieces, columns=columns)
    assert lines == wrapped(text, columns=columns)
    assert all(columns_of(line) < columns for line in lines)
    letters = [character for character in text if columns_of(character) and not character.isspace()]
    assert [character for character in "".join(lines) if not character.isspace()] == letters


def test_a_tab_goes_to_the_next_multiple_of_eight_columns():
    assert WordWrap(lambda: 12).wrap("tab\tx yz") == "tab\tx \nyz"


def test_a_piece_is_written_as_soon_as_it_arrives():
    wrap = WordWrap(lambda: 80)
    assert [wrap.wrap(piece) for piece in ("Hel", "lo wor", "ld")] == ["Hel", "lo wor", "ld"]


@pytest.mark.parametrize(
    ("typed", "message", "prompts"),
    [
        ("hello\n", "hello", "> "),
        ("one \\\ntwo\\\nthree\n", "one \ntwo\nthree", "> . . "),
        ('"""\none\n\n  two\n"""\n', "one\n\n  two", "> . . . . "),
        ('"""one\ntwo"""\n', "one\ntwo", "> . "),
        ('"""one"""\n', "one", "> "),
        ('"""\none\n', "one", "> . . "),
        ("one\\\n", "one", "> . "),
    ],
)
def test_a_message_may_have_several_lines(typed, message, prompts):
    lines, asked = io.StringIO(typed), []

    def read(prompt):
        asked.append(prompt)
        line = lines.readline()
        if not line:
            raise EOFError
        return line.removesuffix("\n")

    assert read_message(read) == message
    assert "".join(asked) == prompts


def test_the_end_of_the_input_raises_eof_error():
    with pytest.raises(EOFError):
        read_message(iter_nothing)


def iter_nothing(_):
    raise EOFError
