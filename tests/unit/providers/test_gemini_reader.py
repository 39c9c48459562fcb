"""Reading of generateContent streams: what the suites of dialects and recordings do not have."""

import json
import tracemalloc

import pytest
from parley_server.core.model import FinishReason, Usage
from parley_server.errors import Failure, ProviderError, ProviderMalformed, ProviderTruncated, Reason
from parley_server.providers.gemini.reader import HELD_BYTES, GeminiReader
from parley_server.providers.reading.kept import MAX_KEPT_BYTES

from tests.integration.providers.recording import RecordingSink

NOTICES = {"after_finish", "count", "content", "tool_call"}


class Reading:
    """A reader with its sink, and the calls that it made."""

    def __init__(self, **options):
        self.sink = RecordingSink()
        self.calls = []
        self.reader = GeminiReader(
            "acme",
            self.sink,
            on_finish=lambda content_s: self.calls.append("finish"),
            on_resume=lambda: self.calls.append("resume"),
            on_done=lambda: self.calls.append("done"),
            notice=self.calls.append,
            **options,
        )

    def feed(self, *events):
        for event in events:
            self.reader.feed(event if isinstance(event, bytes) else as_event(event))
        return self

    def end(self):
        return self.reader.end()

    @property
    def notices(self):
        return [call for call in self.calls if call in NOTICES]

    @property
    def kept(self):
        return [item for kind, *rest in self.sink.events if kind == "keep" for item in rest[1:]]


def as_event(value):
    return f"data: {json.dumps(value)}\r\n\r\n".encode()


def chunk(*parts, word=None, **fields):
    shown = [{"text": part} if isinstance(part, str) else part for part in parts]
    candidate = {"content": {"parts": shown, "role": "model"}} | ({"finishReason": word} if word else {})
    return {"candidates": [candidate], **fields}


def call(name="f", **fields):
    return {"functionCall": {"name": name, "args": {}, **fields}}


def failure_of(reading):
    with pytest.raises(ProviderError) as failure:
        reading.end()
    return failure.value


@pytest.mark.parametrize(
    ("event", "reason", "word"),
    [
        ({"promptFeedback": {"blockReason": "OTHER"}}, FinishReason.CONTENT_FILTER, "OTHER"),
        (
            {"candidates": [], "promptFeedback": {"blockReasonMessage": "No."}},
            FinishReason.CONTENT_FILTER,
            "BLOCKED_REASON_UNSPECIFIED",
        ),
        (
            chunk("a", word="STOP", promptFeedback={"safetyRatings": [], "blockReason": "SAFETY"}),
            FinishReason.STOP,
            "STOP",
        ),
        (chunk("a", word="FINISH_REASON_UNSPECIFIED"), FinishReason.OTHER, "FINISH_REASON_UNSPECIFIED"),
        (chunk("a", word="LANGUAGE"), FinishReason.CONTENT_FILTER, "LANGUAGE"),
        (chunk(call(), word="CONTINUATION"), FinishReason.MAX_TOKENS, "CONTINUATION"),
        (chunk(call(), word="FAKE"), FinishReason.TOOL_CALLS, "FAKE"),
        ([chunk("a"), chunk("b", word="STOP")], FinishReason.STOP, "STOP"),
    ],
)
def test_ends(event, reason, word):
    finish = Reading().feed(event).end()
    assert (finish.reason, finish.provider_reason) == (reason, word)


@pytest.mark.parametrize(
    ("word", "failure", "reason"),
    [
        ("MALFORMED_FUNCTION_CALL", Failure.NONSENSE, Reason.PROVIDER_MALFORMED),
        ("MALFORMED_RESPONSE", Failure.NONSENSE, Reason.PROVIDER_MALFORMED),
        ("UNEXPECTED_TOOL_CALL", Failure.NONSENSE, Reason.PROVIDER_MALFORMED),
        ("TOO_MANY_TOOL_CALLS", Failure.NONSENSE, Reason.PROVIDER_MALFORMED),
        ("MISSING_THOUGHT_SIGNATURE", Failure.KEPT_ITEMS, Reason.PROVIDER_REJECTED),
        ("PUP_LIMITED_DISABLED", Failure.KEY, Reason.PROVIDER_UNAUTHENTICATED),
    ],
)
def test_finish_reasons_that_report_a_failure(word, failure, reason):
    with pytest.raises(ProviderError) as raised:
        Reading().feed(chunk("a", word=word))
    assert (raised.value.failure, raised.value.reason, raised.value.billed) == (failure, reason, True)


@pytest.mark.parametrize("word", ["OTHER", "NO_IMAGE", "FAKE"])
def test_an_unknown_finish_reason_without_content_is_malformed(word):
    assert isinstance(failure_of(Reading().feed(chunk(word=word))), ProviderMalformed)


def test_an_answer_of_nothing_but_an_image_is_malformed():
    reading = Reading().feed(chunk({"inlineData": {"mimeType": "image/png", "data": ""}}, word="STOP"))
    assert isinstance(failure_of(reading), ProviderMalformed)
    assert reading.notices == ["content"]


@pytest.mark.parametrize("parts", [{"partialArgs": [{"jsonPath": "$.a"}]}, {"willContinue": True}])
def test_arguments_in_pieces_are_refused(parts):
    with pytest.raises(ProviderMalformed):
        Reading().feed(chunk(call(**parts)))


def test_a_second_candidate_is_ignored():
    other = {"index": 1, "content": {"parts": [{"text": "no"}]}, "finishReason": "SAFETY"}
    reading = Reading().feed({"candidates": [*chunk("yes", word="STOP")["candidates"], other]})
    assert (reading.end().reason, reading.sink.content) == (FinishReason.STOP, "yes")


def test_reasoning_has_its_signature():
    signed = []
    reading = Reading()
    reading.sink.reasoning = lambda text, signature=b"": signed.append((text, signature))
    for signature in ("-_-_", "+/+/", "no base64!", 7):
        reading.feed(chunk({"text": "hm", "thought": True, "thoughtSignature": signature}))
    assert signed == [("hm", b"\xfb\xff\xbf"), ("hm", b"\xfb\xff\xbf"), ("hm", b""), ("hm", b"")]


@pytest.mark.parametrize(
    ("events", "usage"),
    [
        (
            [{"promptTokenCount": 9, "totalTokenCount": 9}, {"promptTokenCount": 5, "totalTokenCount": 5}],
            Usage(prompt_tokens=5),
        ),
        ([{"promptTokenCount": 5, "totalTokenCount": 5}, {"trafficType": "ON_DEMAND"}], Usage(prompt_tokens=5)),
        ([{"promptTokenCount": 5, "totalTokenCount": 5}, {"totalTokenCount": 0}], Usage(prompt_tokens=5)),
        (
            [
                {
                    "promptTokenCount": 5,
                    "toolUsePromptTokenCount": 6,
                    "cachedContentTokenCount": 99,
                    "candidatesTokenCount": "3",
                    "thoughtsTokenCount": 4.0,
                }
            ],
            Usage(prompt_tokens=11, cached_prompt_tokens=11, completion_tokens=7, reasoning_tokens=4),
        ),
        (
            [{"promptTokenCount": 5, "thoughtsTokenCount": 2**64 - 1, "totalTokenCount": 2**64}],
            Usage(prompt_tokens=5, estimated=True),
        ),
    ],
)
def test_counts(events, usage):
    reading = Reading().feed(*[chunk("a", usageMetadata=each) for each in events])
    reading.reader.cut()
    assert reading.sink.counted[-1] == usage
    assert bool(reading.notices) == usage.estimated


@pytest.mark.parametrize(
    "odd",
    [
        {"usageMetadata": []},
        {"usageMetadata": 7, "promptFeedback": "x"},
        {"error": {}},
        {"error": False},
        {"usageMetadata": {"promptTokenCount": {"a": 1}}},
    ],
)
def test_an_odd_value_does_not_fail_an_answer(odd):
    reading = Reading().feed({**chunk("a"), **odd}, chunk("b", word="STOP"))
    assert (reading.end().reason, reading.sink.content) == (FinishReason.STOP, "ab")


@pytest.mark.parametrize(
    "odd", [{"candidates": ["x", None]}, chunk({"text": 7}), {"candidates": [{"content": {"parts": ["x"]}}]}]
)
def test_an_odd_part_is_left_out(odd):
    reading = Reading().feed(odd, chunk("b", call(id=7, args={"a": "\ud800"}), word="STOP"))
    assert (reading.end().reason, reading.sink.content) == (FinishReason.TOOL_CALLS, "b")
    [_, index, call_id, name, arguments] = next(event for event in reading.sink.events if event[0] == "tool_call")
    assert (index, call_id, name, json.loads(arguments)) == (0, "7", "f", {"a": "\ufffd"})


def test_parts_that_follow_a_finish_reason_are_read_and_make_it_unreliable():
    reading = Reading().feed(chunk("a", word="STOP"))
    assert reading.reader.finished
    reading.feed(chunk("b", word="STOP"))
    assert not reading.reader.finished
    assert reading.calls == ["finish", "resume"]
    assert (reading.end().reason, reading.sink.content) == (FinishReason.STOP, "ab")


def test_an_error_after_a_reliable_finish_reason_is_ignored_unless_content_follows():
    reading = Reading().feed(chunk("a", word="STOP"), {"error": {"code": 503}})
    assert reading.notices == ["after_finish"]
    with pytest.raises(ProviderError) as raised:
        reading.feed(chunk("b"))
    assert raised.value.failure is Failure.UNAVAILABLE


def test_an_error_after_unreliable_finish_reasons_fails_the_answer():
    reading = Reading().feed(chunk("a", word="STOP"), chunk("b", word="STOP"))
    lines = json.dumps({"error": {"code": 499, "status": "CANCELLED"}}, indent=2).replace("\n", "\r\n")
    with pytest.raises(ProviderError):
        reading.feed(lines.encode() + b"\r\n")


def test_garbage_after_a_finish_reason_ends_the_body():
    reading = Reading().feed(chunk("a", word="STOP"), b"data: {oops\r\n\r\n", chunk("b"))
    assert (reading.end().reason, reading.sink.content) == (FinishReason.STOP, "a")
    assert reading.calls == ["finish", "after_finish", "done"]


def test_an_end_within_an_event_after_unreliable_finish_reasons_is_truncated():
    reading = Reading().feed(chunk("a", word="STOP"), chunk("b", word="STOP"), b'data: {"candidates": [')
    assert isinstance(failure_of(reading), ProviderTruncated)


def test_a_body_that_ends_without_a_finish_reason_is_truncated():
    assert isinstance(failure_of(Reading().feed(chunk("a"))), ProviderTruncated)


def test_parts_are_kept_as_sent_if_the_answer_has_calls():
    parts = [
        '{"text": "größe", "thought" : true}',
        '{ "functionCall": {"name": "f", "args": {"n": 1.50}}, "thoughtSignature": "c2ln", "new": [1e400] }',
        '{"text": "","thoughtSignature":"c2ln"}',
    ]
    events = [f'data: {{"candidates": [{{"content": {{"parts": [{part}]}}}}]}}\n\n'.encode() for part in parts]
    reading = Reading(origin="me", keeps=True).feed(*events, chunk("", word="STOP"))
    assert reading.end().reason is FinishReason.TOOL_CALLS
    assert reading.kept == parts
    text_alone = Reading(origin="me", keeps=True).feed(chunk("a", word="STOP"))
    text_alone.end()
    assert text_alone.kept == []


def test_kept_parts_have_no_half_of_a_surrogate_pair():
    reading = Reading(keeps=True).feed(chunk("\ud83d"), chunk("\ude00\ud83d"), chunk("a", call(), word="STOP"))
    reading.end()
    assert [json.loads(item).get("text") for item in reading.kept] == ["\ufffd", "\ufffd\ufffd", "a", None]
    assert reading.sink.content == "😀\ufffda"


def test_half_a_surrogate_pair_without_its_other_half_comes_before_the_next_text():
    assert Reading().feed(chunk("\ud83d"), chunk("a")).sink.content == "\ufffda"


def test_of_a_large_answer_no_more_is_held_than_can_be_kept():
    part = "x" * (HELD_BYTES // 2)
    reading = Reading(keeps=True)
    reading.sink.text = lambda text: None
    tracemalloc.start()
    try:
        for _ in range(40):
            reading.feed(chunk(part))
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held_bytes < 4 * HELD_BYTES
    reading.feed(chunk(call(), word="STOP")).end()
    assert sum(map(len, reading.kept)) > MAX_KEPT_BYTES  # too large to be stored, so that no incomplete set is
