"""A reader of one reply that checks the order of its chunks and records the times at which text arrived."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import grpc
from parley.v1 import chat_pb2, chat_pb2_grpc, errors_pb2, resources_pb2


def script(text: str, **fields: Any) -> str:
    """A user's text that makes the scripted model answer with `text`."""
    return "/script " + json.dumps({"text": text, **fields})


def words(tag: str, count: int) -> str:
    """A text of `count` distinct words."""
    return "".join(f"{tag}.{number} " for number in range(count))


def error_of(status: grpc.aio.AioRpcError) -> errors_pb2.ReplyError | None:
    """Parley's error in the trailers of a status; None if the status is not Parley's."""
    for key, value in status.trailing_metadata() or ():
        if key == "parley-error-bin":
            return errors_pb2.ReplyError.FromString(value)
    return None


def reason_of(error: errors_pb2.ReplyError | None) -> str:
    """The name of an error's reason without its prefix; empty for None."""
    return errors_pb2.ErrorReason.Name(error.reason).removeprefix("ERROR_REASON_") if error is not None else ""


def text_of(reply: resources_pb2.Reply) -> str:
    return "".join(part.text for part in reply.message.parts)


class Watcher:
    """Reads one reply over any number of calls. `text`: the text so far, as a page shows it. `sequence`: the cursor."""

    def __init__(self, request: chat_pb2.ReplyRequest | None = None) -> None:
        self.request = request or chat_pb2.ReplyRequest()
        self.reply_id = ""
        self.conversation_id = ""
        self.replayed = False
        self.sequence = 0
        self.text = ""
        self.snapshots = 0
        self.go_aways: list[float] = []
        self.terminal: chat_pb2.TokenChunk | None = None
        self.status: grpc.StatusCode | None = None
        self.error: errors_pb2.ReplyError | None = None
        self.has_accepted = asyncio.Event()
        self.has_text = asyncio.Event()
        self.has_go_away = asyncio.Event()
        self._marks: list[tuple[float, int]] = []

    async def start(self, chat: chat_pb2_grpc.ChatStub, *, timeout_s: float = 60.0) -> None:
        """StreamReply until the call ends; `status` is its status."""
        await self._follow(chat.StreamReply(self.request, timeout=timeout_s))

    async def resume(self, chat: chat_pb2_grpc.ChatStub, *, timeout_s: float = 60.0) -> None:
        """ResumeReply from the cursor until the call ends."""
        request = chat_pb2.ResumeReplyRequest(reply_id=self.reply_id, after_sequence=self.sequence)
        await self._follow(chat.ResumeReply(request, timeout=timeout_s))

    def length_at(self, when_s: float) -> int:
        """The number of characters received up to a time of the monotonic clock."""
        return max((length for at, length in self._marks if at <= when_s), default=0)

    def time_of(self, length: int) -> float:
        """The time at which at least `length` characters had been received."""
        return next(at for at, had in self._marks if had >= length)

    async def _follow(self, call: Any) -> None:
        self.status = self.error = None
        self.terminal = None
        try:
            async for chunk in call:
                assert self.terminal is None, "a chunk after the terminal chunk"
                self._take(chunk)
            self.status = await call.code()
        except grpc.aio.AioRpcError as status:
            self.status, self.error = status.code(), error_of(status)

    def _take(self, chunk: chat_pb2.TokenChunk) -> None:
        kind = chunk.WhichOneof("event")
        if kind in ("accepted", "heartbeat", "go_away"):
            assert chunk.sequence <= self.sequence or kind == "accepted"
            self._notice(kind, chunk)
            return
        again = kind in ("finished", "failed") and chunk.sequence == self.sequence
        assert chunk.sequence > self.sequence or again, (chunk.sequence, self.sequence)
        self.sequence = chunk.sequence
        if kind == "text":
            self.text += chunk.text
        elif kind == "snapshot":
            self.snapshots += 1
            self.text = text_of(chunk.snapshot)
        elif kind in ("finished", "failed"):
            self.terminal = chunk
        if kind in ("text", "snapshot"):
            self._marks.append((time.monotonic(), len(self.text)))
            self.has_text.set()

    def _notice(self, kind: str, chunk: chat_pb2.TokenChunk) -> None:
        if kind == "go_away":
            self.go_aways.append(chunk.go_away.time_left.ToMilliseconds() / 1000)
            self.has_go_away.set()
        if kind == "accepted":
            self.reply_id, self.conversation_id = chunk.reply_id, chunk.accepted.conversation_id
            self.replayed = chunk.accepted.replayed
            self.has_accepted.set()
