"""The verdicts and the table of the benchmark of the products."""

import msgspec
import pytest

from benchmarks.products import Found, Polls, Streams, part

STREAMS = Streams(
    product="express",
    streams=100,
    runs=3,
    first_token_p50_ms=20.0,
    first_token_p99_ms=80.0,
    late_p50_ms=1.5,
    late_p99_ms=20.0,
    stored_p50_ms=4.0,
    stored_p99_ms=30.0,
    backend_us_per_token=150.0,
    faults=[],
)
POLLS = Polls(users=10, polls=250, poll_p50_ms=3.0, poll_p99_ms=9.0, redis_bytes_per_task=20_000)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"first_token_p99_ms": 1000.0}, "first token"),
        ({"late_p99_ms": 100.0}, "late"),
        ({"stored_p99_ms": 100.0}, "stored"),
        ({"faults": ["no end"]}, "not complete"),
    ],
)
def test_a_figure_of_a_product_is_missed_from_its_limit_on(change, words) -> None:
    missed = msgspec.structs.replace(STREAMS, **change).missed()
    assert len(missed) == (0 if words is None else 1)
    assert all(words in each for each in missed)


@pytest.mark.parametrize(
    ("change", "words"),
    [({}, None), ({"poll_p50_ms": 10.0}, "poll"), ({"redis_bytes_per_task": 1_000_000}, "Redis")],
)
def test_a_figure_of_polling_is_missed_from_its_limit_on(change, words) -> None:
    missed = msgspec.structs.replace(POLLS, **change).missed()
    assert len(missed) == (0 if words is None else 1)
    assert all(words in each for each in missed)


def test_the_section_names_what_was_missed_and_what_was_not_measured() -> None:
    slow = msgspec.structs.replace(STREAMS, late_p99_ms=250.0)
    section = part(Found(streams=[STREAMS, slow], polls=POLLS, left_out=["ui: there is none"]))
    assert "**Missed**: express: a token is late by 250 ms at p99." in section
    assert "Not measured: ui: there is none." in section
    assert section.count("| express") == 2
    assert "3 ms at the median" in section
