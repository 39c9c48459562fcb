"""Whatever frames come, in whatever order: two kinds of fault, no call that stays, and the next caller is served."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from hpack import Encoder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parley_server.rpc.http2 import Http2Server, Limits, frames
from parley_server.rpc.http2.connection import Connection

from tests.integration.http2.conftest import Services, handlers
from tests.integration.http2.peer import Peer, data, message, request_head

EXAMPLES = 600
PATHS = ("/t.T/Echo", "/t.T/Hang", "/t.T/Split", "/t.T/Flood", "/t.T/Chat", "/t.T/Collect", "/t.T/None")

stream_ids = st.sampled_from([0, 1, 1, 1, 3, 3, 5, 5, 7, 2, 2**31 - 1])
WHOLE = [message(b"9 9000"), message(b"3 50"), message(b""), message(b"1 70000")]
bodies = st.sampled_from([*WHOLE, *WHOLE, b"", message(b"a") * 2, message(b"abc")[:-1], b"\1\0\0\0\1x"])
payloads = st.one_of(bodies, bodies, st.binary(max_size=40))
flags = st.sampled_from([0, 1, 4, 5, 5, 5, 8, 9, 0x20, 0x24, 0xFF])
settings_payloads = st.lists(
    st.tuples(st.integers(0, 8), st.sampled_from([0, 1, 100, 16_384, 65_535, 2**31 - 1, 2**32 - 1])), max_size=4
).map(lambda pairs: b"".join(name.to_bytes(2) + value.to_bytes(4) for name, value in pairs))
more_fields = st.lists(
    st.sampled_from(
        [
            ("grpc-timeout", "1m"),
            ("grpc-timeout", "x"),
            ("grpc-encoding", "gzip"),
            ("grpc-encoding", "br"),
            ("content-length", "5"),
            ("content-length", "9" * 5000),
            ("x-bin", "AA,=="),
            ("x", "\udcff\n"),
            ("te", "gzip"),
            ("Upper", "x"),
            (":path", "/again"),
        ]
    ),
    max_size=1,
)


def frame_of(kind: int, payload: Any, ids: Any, bits: Any) -> Any:
    return st.builds(frames.frame, st.just(kind), bits, ids, payload)


sizes = st.sampled_from([0, 1, 100, 65_535, 2**31 - 1]).map(lambda size: size.to_bytes(4))
opened = st.sampled_from([1, 3, 5, 7])
connections = st.just(0)
some_fields = st.one_of(st.just([]), st.just([]), more_fields)
calls = st.tuples(st.just("call"), st.sampled_from(PATHS), bodies, st.sampled_from([True, True, False]), some_fields)
heads = st.tuples(st.just("head"), opened, st.sampled_from([0, 1, 4, 5]), st.sampled_from(PATHS), more_fields)
proper = st.one_of(
    calls,
    calls,
    frame_of(frames.DATA, payloads, opened, st.sampled_from([0, 0, 0, 1, 8])),
    frame_of(frames.WINDOW_UPDATE, sizes, st.sampled_from([0, 1, 3, 5]), connections),
    frame_of(frames.RST_STREAM, sizes, opened, connections),
    frame_of(frames.SETTINGS, settings_payloads, connections, connections),
    frame_of(frames.PING, st.sampled_from([bytes(8), bytes(7) + b"\2"]), connections, st.sampled_from([0, 1])),
    st.sampled_from(["turn", "turn", "turn", "pause", "resume", "go away"]),
)
improper = st.one_of(
    heads,
    st.builds(frames.frame, st.integers(0, 12), flags, stream_ids, payloads),
    st.binary(max_size=12),
)
pieces = st.tuples(
    st.lists(calls, min_size=3, max_size=5),
    st.lists(proper, min_size=5, max_size=20),
    st.lists(st.one_of(improper, proper), max_size=5),
).map(lambda parts: [piece for part in parts for piece in part])


class Socket(asyncio.Transport):
    """Keeps nothing; it is as a socket is, or as it is after its end."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = False

    def write(self, data: Any) -> None:
        assert not self.ended, "written after the end"

    def write_eof(self) -> None:
        self.ended = True

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        self.ended = True

    def abort(self) -> None:
        self.ended = True

    def get_write_buffer_size(self) -> int:
        return 0


def bytes_of(script: list[Any]) -> Iterator[Any]:
    """The pieces, with blocks encoded in their order and whole calls on the next stream of a client."""
    encoder, stream_id = Encoder(), 1
    yield frames.PREFACE + frames.settings()
    for piece in script:
        if piece[:1] == ("call",):
            _, path, body, end, more = piece
            block = encoder.encode(encodable(path, more))
            yield frames.frame(frames.HEADERS, frames.END_HEADERS, stream_id, block) + data(stream_id, body, end=end)
            stream_id += 2
        elif piece[:1] == ("head",):
            _, chosen, bits, path, more = piece
            yield frames.frame(frames.HEADERS, bits, chosen, encoder.encode(encodable(path, more)))
        else:
            yield piece


def encodable(path: str, more: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    fields = request_head(path, *more)
    return [(name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in fields]


async def play(connection: Connection, script: list[Any]) -> None:
    for piece in bytes_of(script):
        if piece == "turn":
            await asyncio.sleep(0)
        elif piece == "pause":
            connection.pause_writing()
        elif piece == "resume":
            connection.resume_writing()
        elif piece == "go away":
            connection.go_away()
        else:
            connection.data_received(piece)


async def fuzzed(script: list[Any], cut: int) -> None:
    problems: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    server = Http2Server(Limits())
    server.add_registered_method_handlers("t.T", handlers(Services()))
    connection = Connection(server)
    connection.connection_made(Socket())
    await play(connection, script)
    for _ in range(cut):
        await asyncio.sleep(0)
    queued = connection.flow.waiting
    assert queued <= len(connection.calls) + len(server.tasks)
    connection.connection_lost(None)
    async with asyncio.timeout(5):
        while server.tasks:
            await asyncio.sleep(0)
    assert (connection.calls, connection.held, connection.flow.waiting) == ({}, 0, 0)
    assert not server.connections
    assert problems == []
    await asyncio.get_running_loop().shutdown_asyncgens()
    assert asyncio.all_tasks() == {asyncio.current_task()}


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(script=pieces, cut=st.integers(0, 5))
def test_any_frames(script, cut):
    asyncio.run(fuzzed(script, cut))


async def test_the_same_server_answers_afterwards(serve, connect):
    """The frames of the strategies above, on sockets: what they leave behind disturbs nobody."""
    running = await serve()
    scripts: list[list[Any]] = []

    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
    @given(script=pieces)
    def collect(script):
        scripts.append(script)

    collect()
    good = await connect(running)
    for script in scripts:
        peer = await Peer.connect(running.port)
        peer.send(*(piece for piece in bytes_of(script) if isinstance(piece, bytes)))
        assert (await good.ask("/t.T/Echo", b"me")).messages == [b"me"]
        await peer.close()
    await running.until(lambda: len(running.server.connections) == 1)
    await running.until_idle()
