"""Every recorded answer is read by the tests of one dialect, or listed with the reason why none reads it."""

import json
import re

import pytest

from tests.recordings.dialects import DIALECTS
from tests.recordings.folder import (
    ANSWERS,
    UNREAD,
    VARIABLE,
    all_answers,
    differences,
    documents_of,
    recordings,
    streams_of,
)

FOLDER = recordings()
if FOLDER is None:
    pytest.skip(f"{VARIABLE} names no folder of recorded answers", allow_module_level=True)

READ = [
    (name, dialect.name)
    for dialect in DIALECTS
    for name in [*streams_of(FOLDER, dialect.name), *documents_of(FOLDER, dialect.name)]
]
PATHS = {
    "chat": r"/chat/completions(#stream)?",
    "responses": r"/responses(/resp_\w+)?",
    "messages": r"/v1/messages",
    "gemini": r"/models/[^/]+:(streamG|g)enerateContent",
}
"""How the path of a request of each dialect ends."""


def test_the_folder_holds_what_is_expected():
    assert differences(FOLDER) == []


def test_each_answer_is_read_by_one_dialect_or_listed_with_the_reason():
    covered = [name for name, _ in READ] + list(UNREAD)
    assert sorted(covered) == sorted(all_answers(FOLDER))
    assert len(covered) == ANSWERS


def test_the_dialect_is_that_of_the_path_of_the_request():
    dialects = dict(READ)
    for name, path in all_answers(FOLDER).items():
        known = path.with_name(f"{path.name}.meta.json")
        url_path = json.loads(known.read_text()).get("url_path", "") if known.is_file() else ""
        if url_path:
            by_path = [dialect for dialect, end in PATHS.items() if re.search(f"{end}$", url_path)]
            assert by_path == ([dialects[name]] if name in dialects else []), name
