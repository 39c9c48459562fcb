"""The callers of a siege. Each requests replies through Envoy, retries after failures, and records what it receives.

A failed call is not a fault. Faults are violations of Parley's promises, such as text out of order.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import msgspec
from google.protobuf.duration_pb2 import Duration
from parley.v1 import chat_pb2, chat_pb2_grpc, resources_pb2

from benchmarks.siege import words
from benchmarks.siege.stand import TENANTS, Options
from tests.integration.process.watching import error_of, reason_of, text_of
from tests.processes import open_channel

CHANNELS = 8
CALL_S = 45.0
END_LIMIT_S = 180.0
"""A caller that has neither an end nor a refusal after this time counts as one without an end."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 5.0
POLL_S = 4
TOKENS = (8, 40)
KIOSK_SHARE = 0.12
USERS_PER_CALLERS = 3
SHARES = {
    "read": 22,
    "talked": 10,
    "cancelled": 14,
    "cut": 16,
    "interrupted": 10,
    "polled": 10,
    "waited": 6,
    "doubled": 6,
    "left": 6,
}
QUOTA, LIMIT = "QUOTA_EXCEEDED", "RATE_LIMITED"
TEMPORARY = {"STORAGE_UNAVAILABLE", "OVERLOADED", "DRAINING", LIMIT, "REPLY_IN_PROGRESS", "TOO_MANY_READERS"}
CANCELLED = ("CANCELLED", "ORPHANED", "INTERRUPTED")


class Transcript(msgspec.Struct, kw_only=True):
    """What a reader received for a request. `end`: state and reason, such as `COMPLETED/STOP`; empty before the end.
    `refused`: the reason of a refusal that ended the request. `left`: the reader has disconnected and will not return.
    `faults`: violations of promises."""

    kind: str
    tenant: str
    end_user: str
    request_id: str
    tokens: int
    reply_id: str = ""
    conversation_id: str = ""
    text: str = ""
    sequence: int = 0
    snapshots: int = 0
    end: str = ""
    refused: str = ""
    left: bool = False
    calls: int = 0
    faults: list[str] = msgspec.field(default_factory=list)

    @property
    def over(self) -> bool:
        """Whether the request has an end or a final refusal."""
        return bool(self.end or self.refused)

    def take(self, chunk: chat_pb2.TokenChunk) -> None:
        """Add one chunk."""
        kind = chunk.WhichOneof("event")
        if kind == "accepted":
            self.accept(chunk.reply_id, chunk.accepted.conversation_id)
            return
        if kind in ("heartbeat", "go_away", None):
            return
        if self.end:
            self.faults.append(f"{kind} after the end")
        again = kind in ("finished", "failed") and chunk.sequence == self.sequence
        if chunk.sequence <= self.sequence and not again:
            self.faults.append(f"sequence {chunk.sequence} after {self.sequence}")
        self.sequence = chunk.sequence
        if kind == "text":
            self.text += chunk.text
        elif kind == "snapshot":
            self.snapshots += 1
            self.text = text_of(chunk.snapshot)
        elif kind == "finished":
            self.end = _finished(chunk.finished.reason)
        elif kind == "failed":
            self.end = f"FAILED/{reason_of(chunk.failed.error)}"

    def accept(self, reply_id: str, conversation_id: str) -> None:
        """Record the ids of the reply. A second reply for the same request is a fault."""
        if self.reply_id not in ("", reply_id):
            self.faults.append(f"replies {self.reply_id} and {reply_id}")
        self.reply_id, self.conversation_id = reply_id, conversation_id

    def take_reply(self, reply: resources_pb2.Reply) -> None:
        """Record a reply; if it has ended, also its text and its end."""
        self.accept(reply.id, reply.conversation_id)
        if end := end_of(reply):
            self.text, self.end = text_of(reply), end


def end_of(reply: resources_pb2.Reply) -> str:
    """The state and the reason of a reply; empty before its end."""
    states = resources_pb2.Reply
    if reply.state == states.STATE_FAILED:
        return f"FAILED/{reason_of(reply.error)}"
    return _finished(reply.finish_reason) if reply.state in (states.STATE_COMPLETED, states.STATE_CANCELLED) else ""


def _finished(reason: resources_pb2.FinishReason) -> str:
    name = resources_pb2.FinishReason.Name(reason).removeprefix("FINISH_REASON_")
    return f"CANCELLED/{name}" if name in CANCELLED else f"COMPLETED/{name}"


class Callers:
    """Callers on several connections to Envoy. `met`: the number of failed calls, by status."""

    def __init__(self, address: str, options: Options) -> None:
        self._channels = [open_channel(address) for _ in range(CHANNELS)]
        self._options = options
        self.transcripts: list[Transcript] = []
        self.met: Counter[str] = Counter()
        self._until = 0.0

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def run(self, seconds: float) -> None:
        """Request replies for this time, and read each to its end."""
        self._until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as callers:
            for number in range(self._options.streams):
                callers.create_task(Caller(self, number, self._options.seed).run_until(self._until))

    @property
    def over(self) -> bool:
        """Whether the time for new requests has ended."""
        return time.monotonic() > self._until

    def is_final(self, reason: str) -> bool:
        """Whether a refusal ends the request: a quota, or a limit once the siege is over."""
        return reason == QUOTA or (reason == LIMIT and self.over)

    def stub(self, chosen: random.Random) -> chat_pb2_grpc.ChatStub:
        """A stub on a random connection."""
        return chat_pb2_grpc.ChatStub(chosen.choice(self._channels))


class Caller:
    """One caller: an end user of one of the tenants, with random choices that the seed determines."""

    def __init__(self, callers: Callers, number: int, seed: int) -> None:
        self._callers = callers
        self._chosen = random.Random(f"{seed} {number}")
        self._tenant = "kiosk" if self._chosen.random() < KIOSK_SHARE else "shop"
        self._user = f"ada-{number // USERS_PER_CALLERS}" if self._tenant == "shop" else f"ben-{number}"
        self._users = 1
        self._newest: Transcript | None = None
        self._kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "read": self._read,
            "talked": self._talk,
            "cancelled": self._cancel,
            "cut": self._cut,
            "interrupted": self._interrupt,
            "polled": self._poll,
            "waited": self._wait,
            "doubled": self._double,
            "left": self._leave,
        }

    async def run_until(self, until: float) -> None:
        """Request one reply after the other."""
        await asyncio.sleep(self._chosen.random() * min(5.0, max(0.0, until - time.monotonic())))
        while time.monotonic() < until:
            kind = self._chosen.choices(list(SHARES), list(SHARES.values()))[0]
            await self._kinds[kind]()
            if self._refused:
                self._users += 1
                await asyncio.sleep(FIRST_WAIT_S)

    async def _read(self) -> None:
        await self._reader("read").read_to_end()

    async def _talk(self) -> None:
        """Send several turns of one conversation."""
        conversation_id = ""
        for _ in range(self._chosen.randint(2, 3)):
            reader = self._reader("talked", conversation_id=conversation_id)
            await reader.read_to_end()
            if not reader.transcript.end or self._callers.over:
                return
            conversation_id = reader.transcript.conversation_id

    async def _cancel(self) -> None:
        """Cancel by the reply's id at a random time, or by the request's id, possibly before the acceptance."""
        reader = self._reader("cancelled")
        reading = asyncio.create_task(reader.read_to_end())
        early = self._chosen.random() < 0.3
        if not early:
            await reader.until_accepted_or_over()
        await asyncio.sleep(self._chosen.random() * (0.1 if early else 4.0))
        if not reader.transcript.over:
            await reader.cancel(by_request=early)
        await reading

    async def _cut(self) -> None:
        """Disconnect, and resume at the cursor."""
        reader = self._reader("cut")
        for _ in range(self._chosen.randint(1, 3)):
            await reader.read_to_end(cut_after=self._chosen.randint(1, 12))
            if reader.transcript.over:
                return
            await asyncio.sleep(self._chosen.random() * 2)
        await reader.read_to_end()

    async def _interrupt(self) -> None:
        """Send a second message while the first one is answered."""
        first = self._reader("interrupted")
        reading = asyncio.create_task(first.read_to_end())
        await first.until_accepted_or_over()
        if first.transcript.reply_id:
            await asyncio.sleep(self._chosen.random() * 4)
            policy = chat_pb2.CONCURRENCY_POLICY_INTERRUPT
            second = self._reader("interrupting", conversation_id=first.transcript.conversation_id, concurrency=policy)
            await second.read_to_end()
        await reading

    async def _poll(self) -> None:
        await self._reader("polled", wait=Duration()).poll()

    async def _wait(self) -> None:
        await self._reader("waited").wait()

    async def _double(self) -> None:
        """Send the same request twice at once, and again after its end."""
        first = self._reader("doubled")
        second = first.copy()
        await asyncio.gather(first.read_to_end(), second.read_to_end())
        if first.transcript.end:
            await first.copy().wait()  # attaches to the same reply

    async def _leave(self) -> None:
        """Disconnect without a return, so that the server cancels the reply."""
        reader = self._reader("left", on_disconnect=chat_pb2.DISCONNECT_POLICY_CANCEL)
        await reader.read_to_end(cut_after=self._chosen.randint(1, 8))
        reader.transcript.left = bool(reader.transcript.reply_id) and not reader.transcript.over

    def _reader(self, kind: str, **fields: Any) -> Reader:
        """A reader of a new request. In the tenant kiosk, a new user follows one whose quota is used up."""
        user = self._user if self._tenant == "shop" else f"{self._user}-{self._users}"
        request_id = str(uuid.UUID(int=self._chosen.getrandbits(128), version=4))
        tokens = self._chosen.randint(*TOKENS)
        request = chat_pb2.ReplyRequest(request_id=request_id, text=words.prompt(request_id, tokens), **fields)
        transcript = Transcript(kind=kind, tenant=self._tenant, end_user=user, request_id=request_id, tokens=tokens)
        self._newest = transcript
        return Reader(self._callers, self._chosen, request, transcript)

    @property
    def _refused(self) -> bool:
        return self._newest is not None and bool(self._newest.refused)


class Reader:
    """Reads the reply of one request over any number of calls."""

    def __init__(
        self, callers: Callers, chosen: random.Random, request: chat_pb2.ReplyRequest, transcript: Transcript
    ) -> None:
        self.transcript = transcript
        self._callers = callers
        self._chosen = chosen
        self._request = request
        self._metadata = (
            ("authorization", f"Bearer {TENANTS[transcript.tenant]}"),
            ("x-end-user", transcript.end_user),
        )
        self._progress = asyncio.Event()
        callers.transcripts.append(transcript)

    def copy(self) -> Reader:
        """Another reader with the same request."""
        same = self.transcript
        transcript = Transcript(
            kind=same.kind,
            tenant=same.tenant,
            end_user=same.end_user,
            request_id=same.request_id,
            tokens=same.tokens,
        )
        return Reader(self._callers, self._chosen, self._request, transcript)

    async def until_accepted_or_over(self) -> None:
        """Wait until the request is accepted, or is over without it."""
        while not (self.transcript.reply_id or self.transcript.over):
            self._progress.clear()
            await self._progress.wait()

    async def read_to_end(self, *, cut_after: int = 0) -> None:
        """StreamReply, then ResumeReply, until the terminal chunk or `cut_after` chunks."""
        chunks = 0

        async def call() -> None:
            nonlocal chunks
            stub, options = self._stub(), {"timeout": CALL_S, "metadata": self._metadata}
            if self.transcript.reply_id:
                request = chat_pb2.ResumeReplyRequest(
                    reply_id=self.transcript.reply_id, after_sequence=self.transcript.sequence
                )
                stream = stub.ResumeReply(request, **options)
            else:
                stream = stub.StreamReply(self._request, **options)
            try:
                while (chunk := await stream.read()) is not grpc.aio.EOF:
                    self.transcript.take(chunk)
                    self._progress.set()
                    chunks += 1
                    if cut_after and chunks >= cut_after and self.transcript.reply_id:
                        return
            finally:
                stream.cancel()

        await self._repeat(call, lambda: bool(cut_after) and chunks >= cut_after)

    async def poll(self) -> None:
        """CreateReply in the background, then PollReply until the terminal chunk."""

        async def call() -> None:
            stub = self._stub()
            if not self.transcript.reply_id:
                reply = await stub.CreateReply(self._request, timeout=CALL_S, metadata=self._metadata)
                self.transcript.accept(reply.id, reply.conversation_id)
            request = chat_pb2.PollReplyRequest(
                reply_id=self.transcript.reply_id,
                after_sequence=self.transcript.sequence,
                wait=Duration(seconds=POLL_S),
            )
            answer = await stub.PollReply(request, timeout=CALL_S, metadata=self._metadata)
            for chunk in answer.chunks:
                self.transcript.take(chunk)
            if answer.after_sequence != self.transcript.sequence:
                self.transcript.faults.append(f"cursor {answer.after_sequence} after {self.transcript.sequence}")

        await self._repeat(call, lambda: False)

    async def wait(self) -> None:
        """CreateReply until it returns the ended reply."""

        async def call() -> None:
            reply = await self._stub().CreateReply(self._request, timeout=CALL_S, metadata=self._metadata)
            self.transcript.take_reply(reply)

        await self._repeat(call, lambda: False)

    async def cancel(self, *, by_request: bool) -> None:
        """Call Cancel until it is answered. An answer without an end is a fault."""
        transcript = self.transcript
        target = {"request_id": transcript.request_id} if by_request else {"reply_id": transcript.reply_id}
        request = chat_pb2.CancelRequest(**target)
        answers: list[resources_pb2.Reply] = []

        async def call() -> None:
            try:
                answers.append(await self._stub().Cancel(request, timeout=CALL_S, metadata=self._metadata))
            except grpc.aio.AioRpcError as error:
                if not (by_request and reason_of(error_of(error)) == "REPLY_NOT_FOUND"):
                    raise
                answers.append(resources_pb2.Reply())  # the request is cancelled when the server accepts it

        await self._repeat(call, lambda: bool(answers))
        if answers and answers[0].id and not end_of(answers[0]):
            transcript.faults.append("Cancel returned a reply without an end")

    async def _repeat(self, call: Callable[[], Awaitable[None]], enough: Callable[[], bool]) -> None:
        """Repeat the call, with pauses after failures, until the transcript is over or `enough` returns True."""
        waits = 0
        try:
            async with asyncio.timeout(END_LIMIT_S):
                while not (self.transcript.over or enough()):
                    before = self.transcript.sequence
                    self.transcript.calls += 1
                    try:
                        await call()
                        failure = None
                    except grpc.aio.AioRpcError as error:
                        failure = error
                    if self.transcript.over or enough():
                        return
                    waits = 0 if self.transcript.sequence > before else waits + 1
                    await asyncio.sleep(self._wait_s(failure, waits))
        except TimeoutError:
            self._callers.met[f"no end within {END_LIMIT_S:.0f} s"] += 1
        finally:
            self._progress.set()

    def _wait_s(self, failure: grpc.aio.AioRpcError | None, waits: int) -> float:
        """Record the failure of a call; returns the seconds until the next one."""
        longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(waits, 10))
        if failure is None:
            return 0.0 if waits < 2 else longest
        error = error_of(failure)
        reason = reason_of(error)
        self._callers.met["/".join(filter(None, (failure.code().name, reason)))] += 1
        if self._callers.is_final(reason) and not self.transcript.reply_id:
            self.transcript.refused = reason
            return 0.0
        if reason and reason not in TEMPORARY:
            self.transcript.faults.append(f"{failure.code().name}/{reason}: {failure.details()}")
        if error is not None and error.HasField("retry_after"):
            longest = min(LONGEST_WAIT_S, error.retry_after.ToTimedelta().total_seconds())
        return longest * (0.5 + self._chosen.random() / 2)

    def _stub(self) -> Any:
        return self._callers.stub(self._chosen)
