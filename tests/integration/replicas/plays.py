"""Answers of the upstream that record when each word was sent, and readers that change between replicas."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence

import grpc
from parley.v1 import chat_pb2, chat_pb2_grpc

from tests.cluster import LIMIT_S, RETRY_S, Cluster
from tests.integration.process.watching import Watcher, error_of, reason_of, words
from tests.integration.served import ask, duration
from tests.upstream import Pause, Request, Script, Step, Wait, done, finish, role, text, usage

POLL_S = 5.0


class _Stamp(asyncio.Event):
    """A gate that stands open and notes who passes."""

    def __init__(self, note: Callable[[], None]) -> None:
        super().__init__()
        self._note = note

    async def wait(self) -> bool:
        self._note()
        return True


class Play:
    """One answer, word by word. `first_s` passes before the first word, `pace_s` after each.

    With `hold`, it stands still after so many words until `gate` is set. It is asked for by its tag.
    """

    def __init__(self, tag: str, count: int, *, pace_s: float = 0.01, first_s: float = 0.0, hold: int | None = None):
        self.tag = tag
        self.pieces = [f"{tag}.{number} " for number in range(count)]
        self.whole = words(tag, count)
        self.asked = 0
        self.requested, self.spoke, self.held, self.ended = (asyncio.Event() for _ in range(4))
        self.gate = asyncio.Event()
        self._pace_s = pace_s
        self._first_s = first_s
        self._hold = hold
        self._sent: list[tuple[float, int]] = []

    def request(self, **fields: object) -> chat_pb2.ReplyRequest:
        """A request that is answered with it."""
        return ask(self.tag, **fields)

    @property
    def held_text(self) -> str:
        """What it says before it stands still."""
        return "".join(self.pieces[: self._hold])

    @property
    def sent(self) -> list[tuple[float, int]]:
        """When each word left, and how long the text was with it."""
        return self._sent

    def sent_at(self, length: int) -> float:
        """When it began to send what makes the text so long."""
        return next(at for at, had in self._sent if had >= length)

    def length_at(self, when_s: float) -> int:
        """How many characters it had sent."""
        return max((length for at, length in self._sent if at <= when_s), default=0)

    def script(self) -> Script:
        """To be played once: it has been asked."""
        self.asked += 1
        self.requested.set()
        lengths = itertools.accumulate(len(piece) for piece in self.pieces)
        steps: list[Step] = [role(), Pause(self._first_s)]
        for number, (piece, length) in enumerate(zip(self.pieces, lengths, strict=True)):
            if number == self._hold:
                steps += [Wait(_Stamp(self.held.set)), Wait(self.gate)]
            steps += [self._stamp(length), text(piece), Pause(self._pace_s)]
        if self._hold == len(self.pieces):
            steps += [Wait(_Stamp(self.held.set)), Wait(self.gate)]
        return Script([*steps, Wait(_Stamp(self.ended.set)), finish(), usage(3, len(self.pieces)), done()])

    def _stamp(self, length: int) -> Wait:
        def note() -> None:
            self._sent.append((time.monotonic(), length))
            self.spoke.set()

        return Wait(_Stamp(note))


class Repertoire:
    """Answers each request with the play of its tag: `upstream.reply_with(repertoire)`."""

    def __init__(self) -> None:
        self.plays: dict[str, Play] = {}

    def __call__(self, request: Request) -> Script:
        newest = request.json["messages"][-1]["content"].rpartition("\n\n")[2]  # after what was not answered
        return self.plays[newest].script()

    def add(self, tag: str, count: int, **fields: float | None) -> Play:
        """A new play."""
        assert tag not in self.plays
        play = self.plays[tag] = Play(tag, count, **fields)
        return play


class Poller(Watcher):
    """Follows a reply by PollReply; otherwise as any other."""

    async def resume(self, chat: chat_pb2_grpc.ChatStub, *, timeout_s: float = 60.0) -> None:
        """Poll until the terminal chunk, or until a call ends in any other way than with an answer."""
        self.status = self.error = self.terminal = None
        request = chat_pb2.PollReplyRequest(reply_id=self.reply_id, wait=duration(POLL_S), gather=duration(0.05))
        try:
            while self.terminal is None:
                request.after_sequence = self.sequence
                answer = await chat.PollReply(request, timeout=timeout_s)
                for chunk in answer.chunks:
                    self._take(chunk)
                assert answer.after_sequence == self.sequence
            self.status = grpc.StatusCode.OK
        except grpc.aio.AioRpcError as status:
            self.status, self.error = status.code(), error_of(status)


async def read_on(
    cluster: Cluster,
    watcher: Watcher,
    order: Sequence[int],
    *,
    accept: Sequence[str] = (),
    limit_s: float = LIMIT_S,
) -> float:
    """Start the watcher's request, or resume its reply, at these replicas in turn until it has the terminal chunk; when
    that was. In between, nothing ends a call but a lost connection, or one of the reasons to `accept`."""
    turns = itertools.cycle(order)
    async with asyncio.timeout(limit_s):
        while watcher.terminal is None:
            chat = cluster.chat(next(turns))
            await (watcher.resume(chat) if watcher.reply_id else watcher.start(chat))
            if watcher.terminal is None:
                assert reason_of(watcher.error) in ("", *accept), (watcher.reply_id, watcher.status, watcher.error)
                assert watcher.status is grpc.StatusCode.UNAVAILABLE, (watcher.reply_id, watcher.status)
                await asyncio.sleep(RETRY_S)
    return time.monotonic()
