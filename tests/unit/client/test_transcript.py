"""The transcript keeps the exact text through cuts, repetitions, merges and snapshots."""

import grpc
from hypothesis import given
from hypothesis import strategies as st
from parley._transcript import Transcript
from parley.events import Accepted, Finished, Reasoning, Snapshot, Text, ToolCall, UsageUpdate
from parley.v1 import chat_pb2, resources_pb2

from tests.scripted_server import accepted, failed, finished, reply_error, snapshot, text, texts

PIECES = st.lists(st.text(min_size=1, max_size=4), min_size=1, max_size=12)


def merged(chunks, draw):
    """The chunks as a slow reader gets them: random adjacent chunks are joined."""
    out = []
    for chunk in chunks:
        if out and draw(st.booleans()):
            out[-1] = text(chunk.sequence, out[-1].text + chunk.text)
        else:
            out.append(chunk)
    return out


@st.composite
def deliveries(draw):
    """The text of a log, and the chunks that a reader may get of it over many calls."""
    pieces = draw(PIECES)
    log = texts(*pieces)
    cursor, sent = 0, []
    while cursor < len(log):
        rest = merged(log[cursor:], draw)
        if cursor and draw(st.booleans()):
            rest.insert(0, snapshot(log[cursor].sequence, "".join(pieces[: cursor + 1])))
            rest[1:] = log[cursor + 1 :]
        taken = rest[: draw(st.integers(1, len(rest)))]
        sent += [accepted(sequence=cursor), *taken]
        if draw(st.booleans()):
            sent.append(chat_pb2.TokenChunk(sequence=taken[-1].sequence, heartbeat=chat_pb2.Heartbeat()))
        cursor = taken[-1].sequence
        if draw(st.booleans()):
            sent += draw(st.lists(st.sampled_from(log[:cursor]), max_size=3))
    end = finished(len(log) + 1)
    return "".join(pieces), [*sent, end, *draw(st.lists(st.sampled_from([*log, end]), max_size=3))]


@given(deliveries())
def test_text_is_exact_for_any_delivery(delivery):
    whole, chunks = delivery
    transcript, shown, ends = Transcript(), "", []
    for chunk in chunks:
        event = transcript.apply(chunk)
        if isinstance(event, Text):
            shown += event.text
        elif isinstance(event, Snapshot):
            shown = event.text
        elif isinstance(event, Finished):
            ends.append(event)
    assert (shown, transcript.text) == (whole, whole)
    assert [end.text for end in ends] == [whole]


def test_each_chunk_of_a_whole_log_becomes_one_event():
    transcript = Transcript()
    usage = resources_pb2.Usage(prompt_tokens=3)
    chunks = [
        accepted(),
        chat_pb2.TokenChunk(sequence=1, reasoning=resources_pb2.Reasoning(text="hm")),
        text(2, "He"),
        chat_pb2.TokenChunk(sequence=3, tool_call=chat_pb2.ToolCallDelta(index=0, id="c1", name="f", arguments="{")),
        chat_pb2.TokenChunk(sequence=4, tool_call=chat_pb2.ToolCallDelta(index=0, arguments="}")),
        chat_pb2.TokenChunk(sequence=5, usage=usage),
        finished(6),
    ]
    assert [transcript.apply(chunk) for chunk in chunks] == [
        Accepted(
            "reply-1",
            "conversation-1",
            "message-2",
            ("message-1",),
            "scripted",
            replayed=False,
            ignored_settings=("seed",),
        ),
        Reasoning("hm"),
        Text("He"),
        ToolCall(0, "c1", "f", "{"),
        ToolCall(0, "", "", "}"),
        UsageUpdate(usage),
        Finished("STOP", "He", "spare", "", resources_pb2.Usage(prompt_tokens=3, completion_tokens=5), "typewriter"),
    ]
    assert transcript.tool_calls == (ToolCall(0, "c1", "f", "{}"),)


def test_a_notice_does_not_move_the_cursor():
    transcript = Transcript()
    transcript.apply(accepted(sequence=7))
    transcript.apply(chat_pb2.TokenChunk(sequence=9, go_away=chat_pb2.GoAway()))
    assert transcript.sequence == 0
    assert transcript.apply(text(1, "a")) == Text("a")


def test_an_unknown_event_is_skipped_and_moves_the_cursor():
    unknown = chat_pb2.TokenChunk.FromString(b"\x10\x05" + b"\xa2\x06\x03abc")  # sequence 5, field 100
    transcript = Transcript()
    assert transcript.apply(unknown) is None
    assert transcript.sequence == 5


def test_a_snapshot_replaces_text_and_tool_calls():
    transcript = Transcript()
    transcript.apply(text(3, "lost"))
    reply = resources_pb2.Reply(
        message=resources_pb2.Message(
            parts=[
                resources_pb2.Part(reasoning=resources_pb2.Reasoning(text="hidden")),
                resources_pb2.Part(text="kept"),
                resources_pb2.Part(tool_call=resources_pb2.ToolCall(id="c", name="f", arguments="{}")),
            ]
        )
    )
    event = transcript.apply(chat_pb2.TokenChunk(sequence=65539, snapshot=reply))
    assert event == Snapshot("kept", reply)
    assert transcript.tool_calls == (ToolCall(0, "c", "f", "{}"),)
    assert transcript.sequence == 65539


def test_an_older_snapshot_is_ignored():
    transcript = Transcript()
    for chunk in (snapshot(2, "ab"), text(3, "c"), snapshot(2, "ab")):
        transcript.apply(chunk)
    assert transcript.text == "abc"


def test_a_snapshot_at_the_cursor_replaces_the_text():
    transcript = Transcript()
    for chunk in (text(1, "a"), text(2, "lost"), snapshot(2, "kept")):
        transcript.apply(chunk)
    assert (transcript.text, transcript.sequence) == ("kept", 2)


def test_a_failure_keeps_the_partial_text():
    transcript = Transcript()
    error = reply_error(grpc.StatusCode.ABORTED, "PROVIDER_TIMEOUT", retryable=True)
    for chunk in (accepted(), text(1, "half"), failed(2, error), failed(2, error), finished(3)):
        transcript.apply(chunk)
    failure = transcript.failure
    assert transcript.finished is None
    assert (failure.reason, failure.text, failure.retryable) == ("PROVIDER_TIMEOUT", "half", True)
    assert (failure.reply_id, failure.message_id) == ("reply-1", "message-2")
    assert (failure.model, failure.provider) == ("spare", "typewriter")


def test_a_terminal_chunk_at_the_cursor_is_applied():
    transcript = Transcript(reply_id="reply-1", after_sequence=6)
    assert transcript.apply(finished(6)).reason == "STOP"


def test_an_unknown_finish_reason_is_other():
    assert Transcript().apply(finished(1, reason=77)).reason == "OTHER"
