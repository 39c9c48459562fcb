"""Refusals of vendors, and answers that are one JSON document, over a socket.

The expected classes of refusals follow from the status and the codes; the code under test is not asked.
"""

import json

import pytest
from parley_server.errors import Failure, ProviderError

from tests.recordings.dialects import DIALECTS
from tests.recordings.folder import VARIABLE, documents_of, recordings
from tests.recordings.reading import answered, read_over_a_socket
from tests.upstream import Script

FOLDER = recordings()
if FOLDER is None:
    pytest.skip(f"{VARIABLE} names no folder of recorded answers", allow_module_level=True)

JSON = {"Content-Type": "application/json"}
FAILURES = {401: Failure.KEY, 403: Failure.KEY, 404: Failure.NO_MODEL, 429: Failure.RATE}
DOCUMENTS = [(dialect, path, name) for dialect in DIALECTS for name, path in documents_of(FOLDER, dialect.name).items()]


def status_of(path):
    """In the name of the file, or in Google's error object; an answer without an error has 200."""
    _, found, number = path.name.removesuffix(".json").rpartition(".http")
    return int(number) if found else json.loads(path.read_bytes()).get("error", {"code": 200})["code"]


def expected_failure(status, text):
    codes = {"model_not_found": Failure.NO_MODEL, "API_KEY_INVALID": Failure.KEY}
    named = [failure for code, failure in codes.items() if f'"{code}"' in text]
    return (named or [FAILURES.get(status, Failure.REJECTED)])[0]


def words_of(text):
    """The messages of the vendor in a refusal."""
    error = json.loads(text)["error"]
    return [value for key, value in error.items() if key in ("message", "failed_generation")]


def documents(*, refused):
    chosen = [each for each in DOCUMENTS if (status_of(each[1]) >= 400) == refused]
    return [pytest.param(dialect, path, id=name) for dialect, path, name in chosen]


@pytest.mark.parametrize(("dialect", "path"), documents(refused=True))
async def test_a_refusal_has_the_class_of_its_status_and_codes(dialect, path):
    text = path.read_text()
    status = status_of(path)
    sink, error = await answered(dialect, Script([text.encode()], status=status, headers=JSON))
    assert isinstance(error, ProviderError)
    assert (error.failure, error.billed) == (expected_failure(status, text), False)
    assert error.metadata["http_status"] == str(status)
    assert sink.events == []
    shown = f"{error} {error.metadata}"
    assert not [words for words in words_of(text) if words in shown]


@pytest.mark.parametrize(("dialect", "path"), documents(refused=False))
async def test_an_answer_in_one_document(dialect, path):
    """Whole, and byte by byte."""
    body = path.read_bytes()
    for steps in ([body], [body[at : at + 1] for at in range(len(body))]):
        assert await read_over_a_socket(dialect, Script(steps, headers=JSON)) == dialect.read_plainly(body)
