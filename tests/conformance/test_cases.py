"""The loader rejects malformed cases, and the comparison rejects unexpected events."""

from __future__ import annotations

import re

import pytest
from parley.v1 import errors_pb2

from tests.conformance.cases import FOLDER, CaseError, load_cases
from tests.conformance.expect import Names, check_events, check_stream

HEAD = "- case: one\n  shows: something\n"


def load(folder, text):
    (folder / "x.yaml").write_text(text)
    return load_cases(folder)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"{HEAD}  stpes: []\n", r"x\.yaml:1: unknown key 'stpes'"),
        ("- case: one\n  steps: []\n", r"x\.yaml:1: a case needs 'shows'"),
        (f"{HEAD}  steps:\n    - do: strem\n", r"x\.yaml:4: no command 'strem'"),
        (f"{HEAD}  steps:\n    - do: poll\n      with:\n        reply: x\n", r"x\.yaml:6: unknown key 'reply'"),
        (f"{HEAD}  steps:\n    - break: reset\n      befor: text\n", r"x\.yaml:4: unknown key 'befor'"),
        (f"{HEAD}  steps:\n    - await: text\n      await: text\n", r"x\.yaml:4: 'await' stands twice"),
        (f"{HEAD}  matrix: {{a: [{{name: b}}]}}\n  steps:\n    - pause: $a.c\n", "the matrix has no a.c for 'b'"),
        (f"{HEAD}  steps: []\n{HEAD}  steps: []\n", r"x\.yaml:4: one stands in x\.yaml:1, too"),
    ],
)
def test_a_malformed_case_is_an_error_that_names_file_and_line(tmp_path, text, problem):
    with pytest.raises(CaseError, match=problem):
        load(tmp_path, text)


def test_a_matrix_is_a_case_for_each_value(tmp_path):
    text = f"{HEAD}  matrix: {{n: [1, 2], how: [reset]}}\n  steps:\n    - pause: $n\n    - wire: $how\n"
    cases = load(tmp_path, text)
    assert [case.id for case in cases] == ["one[1-reset]", "one[2-reset]"]
    assert [case.steps[0]["pause"] for case in cases] == [1, 2]


def text_event(text, sequence):
    return {"id": "1", "event": "text", "text": text, "sequence": sequence}


def stream_fields(text):
    names = ("request_id", "reply_id", "conversation_id", "message_id")
    return {**dict.fromkeys(names, "x"), "sequence": 9, "text": text, "tool_calls": []}


def test_consecutive_texts_are_joined_and_names_are_bound():
    names = Names()
    check_events(["maybe accepted", {"text": "$whole"}], [text_event("a", 1), text_event("b", 2)], names)
    assert names == {"whole": "ab"}


@pytest.mark.parametrize("expected", [["text", "text"], ["text", "usage"], [], [{"text": "a"}], ["accepted", "text"]])
def test_expected_events_must_match_exactly(expected):
    with pytest.raises(AssertionError):
        check_events(expected, [text_event("a", 1), text_event("b", 2)], Names())


@pytest.mark.parametrize(
    "events",
    [
        [text_event("a", 1), text_event("b", 1), {"id": "1", "event": "end", **stream_fields("ab")}],
        [text_event("a", 1), {"id": "1", "event": "end", **stream_fields("b")}],
        [{**text_event("a", 1), "more": 1}, {"id": "1", "event": "end", **stream_fields("a")}],
        [text_event("a", 1)],
    ],
    ids=["a sequence twice", "another text", "a field too many", "no end"],
)
def test_a_stream_with_contradictory_events_fails(events):
    with pytest.raises(AssertionError):
        check_stream(events)


def test_each_reason_has_a_case():
    text = "".join(path.read_text() for path in FOLDER.glob("*.yaml"))
    reasons = {name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.DESCRIPTOR.values_by_name}
    missing = {reason for reason in reasons if not re.search(rf"\b{reason}\b", text)}
    assert missing == {"UNSPECIFIED"}
