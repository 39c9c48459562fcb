"""The callers of a soak: they read to the end, cancel, disconnect and resume, or disconnect without a return.

Each checks that it received the exact text, in order, once.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from parley.v1 import chat_pb2, chat_pb2_grpc, resources_pb2

from benchmarks.callers import CHANNEL_OPTIONS, TEXT, note, status_of
from benchmarks.tokens import WIDTH, Transcript, shape

MODELS = ["t40-p50", "t100-p50", "t200-p50", "t30-p20", "t500-p0"]
CHANNELS = 8
DEADLINE_S = 60.0
# After this time without readers, the server cancels a reply with DISCONNECT_POLICY_CANCEL.
SHORTEST_ORPHAN_S = 10.0
CANCELLED = resources_pb2.FINISH_REASON_CANCELLED
SHARES = {"read": 50, "cancelled": 15, "resumed": 20, "waited": 10, "left": 5}


class SoakCallers:
    """Callers that request replies for a time. `ends`: replies by kind of caller. `faults`: counts of faults."""

    def __init__(self, address: str, chosen: random.Random) -> None:
        self._channels = [grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) for _ in range(CHANNELS)]
        self._chosen = chosen
        self.ends: dict[str, int] = {}
        self.faults: dict[str, int] = {}
        self._kinds: dict[str, Callable[[chat_pb2_grpc.ChatStub, str], Awaitable[str]]] = {
            "read": self._read,
            "cancelled": self._cancel,
            "resumed": self._resume,
            "waited": self._wait,
            "left": self._leave,
        }

    async def open(self) -> None:
        await asyncio.gather(*(channel.channel_ready() for channel in self._channels))

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def run(self, count: int, seconds: float) -> None:
        """Run `count` callers for `seconds`; running replies are then read to their end."""
        end = time.monotonic() + seconds
        await asyncio.gather(*(self._request_replies(end) for _ in range(count)))

    async def _request_replies(self, end: float) -> None:
        await asyncio.sleep(self._chosen.random() * min(3.0, max(0.0, end - time.monotonic())))
        while time.monotonic() < end:
            kind = self._chosen.choices(list(SHARES), list(SHARES.values()))[0]
            stub: Any = chat_pb2_grpc.ChatStub(self._chosen.choice(self._channels))
            try:
                wrong = await self._kinds[kind](stub, self._chosen.choice(MODELS))
            except* grpc.aio.AioRpcError as errors:
                wrong = ", ".join(status_of(error) for error in errors.exceptions)
            self.ends[kind] = self.ends.get(kind, 0) + 1
            if wrong:
                self.faults[f"{kind}: {wrong}"] = self.faults.get(f"{kind}: {wrong}", 0) + 1
                await asyncio.sleep(0.5)

    async def _read(self, stub: Any, model: str) -> str:
        """Read a reply to its end."""
        reading = Reading(model)
        await reading.follow(stub.StreamReply(request(model), timeout=DEADLINE_S))
        return reading.whole()

    async def _cancel(self, stub: Any, model: str) -> str:
        """Cancel a reply at a random time: the stored text is the received text, or the reply has completed before."""
        reading = Reading(model)
        call = stub.StreamReply(request(model), timeout=DEADLINE_S)
        async with asyncio.TaskGroup() as both:
            both.create_task(reading.follow(call))
            stop = both.create_task(self._send_cancel(stub, reading))
        kept = stop.result()
        if kept.state == resources_pb2.Reply.STATE_COMPLETED:
            return reading.whole()
        if kept.state != resources_pb2.Reply.STATE_CANCELLED or reading.reason != CANCELLED:
            return f"state {kept.state} after Cancel, and its reader received reason {reading.reason}"
        text = "".join(each.text for each in kept.message.parts)
        return reading.transcript.fault or ("" if len(text) == reading.characters() else "another text kept")

    async def _send_cancel(self, stub: Any, reading: Reading) -> Any:
        await reading.accepted.wait()
        await asyncio.sleep(self._chosen.random() * 3)
        return await stub.Cancel(chat_pb2.CancelRequest(reply_id=reading.reply_id), timeout=DEADLINE_S)

    async def _resume(self, stub: Any, model: str) -> str:
        """Disconnect and resume at the cursor on another connection, up to three times."""
        reading = Reading(model)
        call = stub.StreamReply(request(model), timeout=DEADLINE_S)
        for _ in range(self._chosen.randint(1, 3)):
            if await reading.follow(call, cut_after=self._chosen.randint(1, 30)):
                break
            await asyncio.sleep(self._chosen.random())
            other: Any = chat_pb2_grpc.ChatStub(self._chosen.choice(self._channels))
            call = other.ResumeReply(
                chat_pb2.ResumeReplyRequest(reply_id=reading.reply_id, after_sequence=reading.sequence),
                timeout=DEADLINE_S,
            )
        else:
            await reading.follow(call)
        return reading.whole()

    async def _wait(self, stub: Any, model: str) -> str:
        """Wait for the whole reply with CreateReply."""
        reply = await stub.CreateReply(request(model), timeout=DEADLINE_S)
        text = "".join(part.text for part in reply.message.parts)
        transcript = Transcript(shape(model).tokens)
        transcript.take(text)
        transcript.end()
        return transcript.fault

    async def _leave(self, stub: Any, model: str) -> str:
        """Disconnect without a resume, so that the server cancels the reply."""
        leaving = request(model, on_disconnect=chat_pb2.DISCONNECT_POLICY_CANCEL)
        reading = Reading(model)
        await reading.follow(stub.StreamReply(leaving, timeout=DEADLINE_S), cut_after=self._chosen.randint(1, 10))
        return reading.transcript.fault


def request(model: str, **more: Any) -> chat_pb2.ReplyRequest:
    """A request that starts a conversation."""
    orphan = Duration(seconds=60)
    return chat_pb2.ReplyRequest(request_id=str(uuid.uuid4()), text=TEXT, model=model, orphan_ttl=orphan, **more)


class Reading:
    """One reply as one caller receives it over all its calls."""

    def __init__(self, model: str) -> None:
        self.transcript = Transcript(shape(model).tokens)
        self.accepted = asyncio.Event()
        self.reply_id = ""
        self.sequence = 0
        self.reason = 0

    def whole(self) -> str:
        """The fault of a reply that must be complete; empty if there is none."""
        return self.transcript.fault or ("" if self.transcript.ended else "a call without its end")

    def characters(self) -> int:
        """The length of the received text."""
        return len(self.transcript.seen_us) * WIDTH

    async def follow(self, call: Any, *, cut_after: int = 0) -> bool:
        """Read one call, or `cut_after` chunks of it; returns whether the terminal chunk was received."""
        chunks = 0
        try:
            while (chunk := await call.read()) is not grpc.aio.EOF:
                self._take(chunk)
                chunks += 1
                if cut_after and chunks > cut_after and not self.transcript.ended:
                    return False
        finally:
            call.cancel()
        return self.transcript.ended

    def _take(self, chunk: chat_pb2.TokenChunk) -> None:
        kind = chunk.WhichOneof("event")
        self.sequence = max(self.sequence, chunk.sequence)
        if kind == "accepted":
            self.reply_id = chunk.reply_id
            self.accepted.set()
        elif kind == "finished":
            self.reason = chunk.finished.reason
        if kind == "finished" and self.reason == CANCELLED:
            self.transcript.ended = True
        else:
            note(chunk, self.transcript)
