"""Many callers through a proxy, whose streams run until the test ends them, and the checks of what they received."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from parley.v1 import chat_pb2, chat_pb2_grpc

from tests.integration.mesh.proxies import Envoy, Nginx
from tests.integration.process.watching import Watcher, reason_of
from tests.processes import ServerProcess, open_channel, until
from tests.upstream import Pause, Request, Script, Step, Upstream, Wait, answer, done, finish, role, text, usage

LIMIT_S = 15.0
RESUME_REPLY = "/parley.v1.Chat/ResumeReply"
STREAMS = 50
CONNECTIONS = 5
AT_ONCE = 50
"""Callers come in groups, each once the one before has text, since the engine refuses a burst as OVERLOADED."""
TEXT_LIMIT_S = 60.0
"""A refused caller returns up to 30 s later."""
PIECE_S = 0.2
PIECES = 5
"""Before the gate and after it."""
LONG = "a long answer"
LONG_PIECES = [f"{number:<40000}" for number in range(40)]


class Mesh:
    """A server, the proxy before it (None: callers connect to the server), and the upstream behind it.

    Every reply to "stream NUMBER" is ten pieces of text, the second half of them once `gate` is set; that to LONG is
    1.6 MB at once.
    """

    def __init__(self, server: ServerProcess, upstream: Upstream, proxy: Envoy | Nginx | None) -> None:
        self.server = server
        self.proxy = proxy
        self.gate = asyncio.Event()
        upstream.reply_with(self._answer)

    @property
    def port(self) -> int:
        """Where callers connect."""
        return self.server.port if self.proxy is None else self.proxy.port

    @property
    def address(self) -> str:
        """The same, as a channel's target."""
        return f"127.0.0.1:{self.port}"

    @asynccontextmanager
    async def streams(self, count: int = STREAMS, connections: int = CONNECTIONS) -> AsyncIterator[list[Watcher]]:
        """`count` streams of other callers, each with text.

        On exit they end; then each must have its whole text in order, and a normal end.
        """
        async with AsyncExitStack() as stack:
            channels = [await stack.enter_async_context(open_channel(self.address)) for _ in range(connections)]
            watchers = [Watcher(chat_pb2.ReplyRequest(text=f"stream {number}")) for number in range(count)]
            async with asyncio.TaskGroup() as calls:
                for first in range(0, count, AT_ONCE):
                    wave = watchers[first : first + AT_ONCE]
                    for number, watcher in enumerate(wave):
                        stub = chat_pb2_grpc.ChatStub(channels[number % connections])
                        calls.create_task(_start(watcher, stub))
                    await _all_have_text(wave)
                try:
                    yield watchers
                    cut = Counter(watcher.status for watcher in watchers if watcher.status is not None)
                    assert not cut, f"ended while they were to go on: {cut}"
                finally:
                    self.gate.set()
            _complete(watchers)

    async def answers(self) -> None:
        """Wait for another call; the server has then read everything sent before on the same connections."""
        async with open_channel(self.address) as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=LIMIT_S)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING

    async def readers(self, count: int) -> None:
        """Wait until so many calls read replies at the server, or have done so in ResumeReply."""

        async def enough() -> bool:
            now = await self.server.metrics()
            return now["parley_readers_active"] + now.get(f"parley_calls_total{{OK,{RESUME_REPLY}}}", 0) >= count

        await until(enough, f"{count} readers", limit_s=LIMIT_S)

    def _answer(self, request: Request) -> Script:
        asked = str(request.json["messages"][-1]["content"])
        return answer(*LONG_PIECES) if asked == LONG else _script(asked, self.gate)


def whole_text(name: str) -> str:
    """All of the answer to `name`."""
    return "".join(_pieces(name))


def _pieces(name: str) -> list[str]:
    return [f"{name}, piece {number}. " for number in range(2 * PIECES)]


def _script(name: str, gate: asyncio.Event) -> Script:
    pieces = [text(piece) for piece in _pieces(name)]
    paced: list[Step] = []
    for number, piece in enumerate(pieces):
        paced += [Wait(gate), piece] if number == PIECES else [piece, Pause(PIECE_S)]
    return Script([role(), *paced, finish(), usage(), done()])


async def _start(watcher: Watcher, stub: chat_pb2_grpc.ChatStub) -> None:
    """Follow a new reply to its end. The engine may refuse to begin it while the machine is busy: begin it later."""
    await watcher.start(stub)
    while not watcher.has_accepted.is_set() and reason_of(watcher.error) == "OVERLOADED":
        assert watcher.error is not None
        await asyncio.sleep(watcher.error.retry_after.ToTimedelta().total_seconds())
        await watcher.start(stub)


async def _all_have_text(watchers: list[Watcher]) -> None:
    try:
        async with asyncio.timeout(TEXT_LIMIT_S):
            await asyncio.gather(*(watcher.has_text.wait() for watcher in watchers))
    except TimeoutError:
        without = Counter((each.status, reason_of(each.error)) for each in watchers if not each.text)
        raise AssertionError(f"no text within {TEXT_LIMIT_S:g} s: {without}") from None


def _complete(watchers: list[Watcher]) -> None:
    ends = Counter((watcher.status, reason_of(watcher.error)) for watcher in watchers)
    assert ends == {(grpc.StatusCode.OK, ""): len(watchers)}
    wrong = [each.request.text for each in watchers if each.text != whole_text(each.request.text)]
    assert wrong == []
    assert [each.request.text for each in watchers if each.snapshots] == []
