"""Converts the chunks of one reply to events, and drops repeated chunks by their sequence.

It uses no I/O and no clock, and ignores chunks of an unknown kind.
"""

from __future__ import annotations

from io import StringIO

from parley._status import error_of_kind
from parley.errors import ReplyFailed
from parley.events import Accepted, Event, Finished, Reasoning, Snapshot, Text, ToolCall, UsageUpdate
from parley.v1 import chat_pb2, resources_pb2


class Transcript:
    """The text, the tool calls and the cursor of one reply.

    `sequence` is the cursor of a resume. Content at or below it is dropped. A snapshot replaces all content. The first
    terminal chunk ends the reply; later chunks are dropped.
    """

    def __init__(self, reply_id: str = "", after_sequence: int = 0) -> None:
        self.reply_id = reply_id
        self.sequence = after_sequence
        self.accepted: Accepted | None = None
        self.finished: Finished | None = None
        self.failure: ReplyFailed | None = None
        self._text = StringIO()  # its methods are atomic: a blocking reader's thread may ask for the text meanwhile
        self._tool_calls: dict[int, ToolCall] = {}

    @property
    def text(self) -> str:
        """The text so far."""
        return self._text.getvalue()

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tool calls so far by index, each with its joined arguments."""
        return tuple(call for _, call in sorted(self._tool_calls.items()))

    @property
    def ended(self) -> bool:
        """True after the terminal chunk."""
        return self.finished is not None or self.failure is not None

    def apply(self, chunk: chat_pb2.TokenChunk) -> Event | None:
        """Returns the event of a chunk, or None if it has nothing new.

        The error of a failed reply is set in `failure`.
        """
        kind = chunk.WhichOneof("event")
        if self.ended or kind in {"heartbeat", "go_away"}:
            return None
        if kind == "accepted":
            return self._accept(chunk)
        # A snapshot at the cursor may contain text that was lost; the terminal chunk may have the cursor's sequence.
        again = kind in {"finished", "failed"} or (kind == "snapshot" and chunk.sequence == self.sequence)
        if chunk.sequence <= self.sequence and not again:
            return None
        self.sequence = max(self.sequence, chunk.sequence)
        return self._content(kind, chunk)

    def _content(self, kind: str | None, chunk: chat_pb2.TokenChunk) -> Event | None:
        match kind:
            case "text":
                self._text.write(chunk.text)
                return Text(chunk.text)
            case "reasoning":
                return Reasoning(chunk.reasoning.text)
            case "tool_call":
                return self._tool_call(chunk.tool_call)
            case "usage":
                return UsageUpdate(chunk.usage)
            case "snapshot":
                return self._replace(chunk.snapshot)
            case "finished":
                return self._finish(chunk.finished)
            case "failed":
                self._fail(chunk.failed)
        return None  # or a kind that this client does not have

    def _accept(self, chunk: chat_pb2.TokenChunk) -> Accepted | None:
        if self.accepted is not None:
            return None
        self.reply_id = chunk.reply_id or self.reply_id
        accepted = chunk.accepted
        self.accepted = Accepted(
            reply_id=self.reply_id,
            conversation_id=accepted.conversation_id,
            message_id=accepted.message_id,
            input_message_ids=tuple(accepted.input_message_ids),
            model=accepted.model,
            replayed=accepted.replayed,
            ignored_settings=tuple(accepted.ignored_settings),
            quota=accepted.quota if accepted.HasField("quota") else None,
        )
        return self.accepted

    def _tool_call(self, delta: chat_pb2.ToolCallDelta) -> ToolCall:
        before = self._tool_calls.get(delta.index, ToolCall(delta.index, "", "", ""))
        self._tool_calls[delta.index] = ToolCall(
            delta.index, before.id or delta.id, before.name or delta.name, before.arguments + delta.arguments
        )
        return ToolCall(delta.index, delta.id, delta.name, delta.arguments)

    def _replace(self, reply: resources_pb2.Reply) -> Snapshot:
        self._text = StringIO()
        self._text.write("".join(part.text for part in reply.message.parts if part.HasField("text")))
        calls = [part.tool_call for part in reply.message.parts if part.HasField("tool_call")]
        self._tool_calls = {i: ToolCall(i, call.id, call.name, call.arguments) for i, call in enumerate(calls)}
        return Snapshot(self.text, reply)

    def _finish(self, chunk: chat_pb2.Finished) -> Finished:
        names = resources_pb2.FinishReason
        reason = names.Name(chunk.reason).removeprefix("FINISH_REASON_") if chunk.reason in names.values() else "OTHER"
        self.finished = Finished(reason, self.text, chunk.model, chunk.cancel_reason, chunk.usage, chunk.provider)
        return self.finished

    def _fail(self, chunk: chat_pb2.Failed) -> None:
        self.failure = error_of_kind(ReplyFailed, chunk.error)
        self.failure.text, self.failure.reply_id = self.text, self.reply_id
        self.failure.message_id = self.accepted.message_id if self.accepted else ""
        self.failure.usage, self.failure.model, self.failure.provider = chunk.usage, chunk.model, chunk.provider
