"""Tool calls are assembled from pieces in any order: calls stay separate, and indexes are dense."""

import itertools
import json
import time

from hypothesis import given
from hypothesis import strategies as st
from parley_server.providers.reading.tool_calls import Arguments, Piece, ToolCalls, arguments_of

from tests.integration.providers.recording import RecordingSink

NAMES = ["f", "g", "get_weather", "search"]
ARGUMENTS = ["{}", '{"a": 1}', '{"a": "} \\" {"}', '{"a": {"b": ["x", {}]}}', '{"text": "\\\\"}']
calls = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(ARGUMENTS)), min_size=1, max_size=6)


def result(pieces):
    sink = RecordingSink()
    tools = ToolCalls(sink)
    for piece in pieces:
        tools.add(piece)
    tools.end(complete=True)
    made = {}
    for _, index, call_id, name, arguments in sink.events:
        first = made.setdefault(index, [call_id, name, ""])
        assert (call_id, name) == ("", "") or first[2] == "", "id and name come with the first piece alone"
        first[2] += arguments
    assert list(made) == list(range(len(made)))
    assert all(call_id and name for call_id, name, _ in made.values())
    assert len({call_id for call_id, _, _ in made.values()}) == len(made)
    return [(name, arguments) for _, name, arguments in made.values()]


def cut(arguments, places):
    places = sorted({0, len(arguments), *[place % len(arguments) for place in places]})
    return [arguments[start:end] for start, end in itertools.pairwise(places)]


@given(calls, st.lists(st.integers(0, 100), max_size=4), st.sampled_from(["index", "same index", "id", "neither"]))
def test_consecutive_calls(wanted, places, form):
    pieces = []
    for number, (name, arguments) in enumerate(wanted):
        key = {"index": str(number), "same index": "0"}.get(form)
        call_id = f"c{number}" if form in ("id", "same index") else ""
        for place, part in enumerate(cut(arguments, places)):
            pieces.append(Piece(key=key, id=call_id, name=name if place == 0 else "", arguments=part))
    assert result(pieces) == wanted


@given(calls, st.data())
def test_interleaved_calls(wanted, data):
    rows = [
        [
            Piece(key=str(number), name=name if place == 0 else "", arguments=part)
            for place, part in enumerate(cut(arguments, [3, 5, 7]))
        ]
        for number, (name, arguments) in enumerate(wanted)
    ]
    pieces = [row.pop(0) for row in rows]
    while any(rows):
        pieces.append(data.draw(st.sampled_from([row for row in rows if row])).pop(0))
    assert result(pieces) == wanted


@given(
    st.lists(
        st.builds(
            Piece,
            key=st.sampled_from([None, "0", "1", "7"]),
            id=st.sampled_from(["", "x", "y"]),
            name=st.sampled_from(["", "f", "g"]),
            arguments=st.sampled_from(["", "{}", "{", "}", '"', "\\", "\ud83d"]),
        ),
        max_size=20,
    )
)
def test_any_pieces_give_dense_indexes_and_unique_ids(pieces):
    result(pieces)


@given(
    st.recursive(
        st.text() | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_arguments_are_complete_only_at_their_end(value):
    text = json.dumps({"value": value})
    arguments = Arguments()
    for character in text:
        assert not arguments.whole
        arguments.add(character)
    assert arguments.whole
    arguments.add("x")
    assert not arguments.whole


def test_arguments_that_no_request_can_contain():
    assert arguments_of({"a": "\ud83d"}) == '{"a":"\ufffd"}'
    nested = Arguments()
    nested.add("[" * 5000 + "]" * 5000)
    assert not nested.whole


def test_checking_after_each_piece_takes_linear_time():
    arguments = Arguments()
    before = time.process_time()
    for piece in ['{"a": "', *["}"] * 100_000, '"}']:
        arguments.add(piece)
        assert arguments.whole is (piece == '"}')
    for _ in range(20_000):
        arguments.add("}")
        assert not arguments.whole
    assert time.process_time() - before < 2.0
