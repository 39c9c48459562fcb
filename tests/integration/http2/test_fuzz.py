"""Whatever frames come, in whatever order: two kinds of fault, no call that stays, and the next caller is served."""

from __future__ import annotations

import asyncio
from typing import Any

from hpack import Encoder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from parley_server.rpc.http2 import Http2Server, Limits, frames
from parley_server.rpc.http2.connection import Connection

from tests.integration.http2.conftest import Services, handlers
from tests.integration.http2.peer import Peer, message, request_head

EXAMPLES = 600
PATHS = ("/t.T/Echo", "/t.T/Hang", "/t.T/Split", "/t.T/Flood", "/t.T/Chat", "/t.T/Collect", "/t.T/None")

stream_ids = st.sampled_from([0, 1, 1, 1, 3, 3, 5, 5, 7, 2, 2**31 - 1])
bodies = st.sampled_from(
    [b"", message(b""), message(b"9 9000"), message(b"a") * 2, message(b"abc")[:-1], b"\1\0\0\0\1x"]
)
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
    max_size=2,
)


@st.composite
def requests(draw: Any) -> tuple[str, int, int, list[tuple[str, str]]]:
    """A header block for the connection's one encoder."""
    fields = request_head(draw(st.sampled_from(PATHS)), *draw(more_fields))
    return ("request", draw(stream_ids), draw(st.sampled_from([0, 1, 4, 4, 4, 5, 5])), fields)


def frame_of(kind: int, payload: st.SearchStrategy[bytes], ids: st.SearchStrategy[int] = stream_ids) -> Any:
    return st.builds(frames.frame, st.just(kind), flags, ids, payload)


sizes = st.sampled_from([0, 1, 100, 65_535, 2**31 - 1]).map(lambda size: size.to_bytes(4))
pieces = st.lists(
    st.one_of(
        requests(),
        requests(),
        frame_of(frames.DATA, payloads),
        frame_of(frames.DATA, payloads, st.just(1)),
        frame_of(frames.WINDOW_UPDATE, sizes),
        frame_of(frames.RST_STREAM, sizes),
        frame_of(frames.SETTINGS, settings_payloads, st.sampled_from([0, 0, 0, 1])),
        frame_of(frames.PING, st.sampled_from([bytes(8), bytes(7) + b"\2", b"x"]), st.sampled_from([0, 0, 1])),
        frame_of(frames.HEADERS, st.binary(max_size=20)),
        frame_of(frames.CONTINUATION, st.binary(max_size=20)),
        st.builds(frames.frame, st.integers(0, 12), st.integers(0, 255), stream_ids, st.binary(max_size=20)),
        st.sampled_from(["turn", "turn", "pause", "resume", "go away"]),
        st.binary(max_size=12),
    ),
    max_size=25,
)


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


async def play(connection: Connection, script: list[Any]) -> None:
    encoder = Encoder()
    connection.data_received(frames.PREFACE + frames.settings())
    for piece in script:
        if piece == "turn":
            await asyncio.sleep(0)
        elif piece == "pause":
            connection.pause_writing()
        elif piece == "resume":
            connection.resume_writing()
        elif piece == "go away":
            connection.go_away()
        elif isinstance(piece, bytes):
            connection.data_received(piece)
        else:
            _, stream_id, bits, fields = piece
            raw = [(name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in fields]
            connection.data_received(frames.frame(frames.HEADERS, bits, stream_id, encoder.encode(raw)))


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
        encoder = Encoder()
        peer.send(frames.PREFACE, frames.settings())
        for piece in script:
            if isinstance(piece, bytes):
                peer.send(piece)
            elif isinstance(piece, tuple):
                raw = [(name.encode(), value.encode("utf-8", "surrogateescape")) for name, value in piece[3]]
                peer.send(frames.frame(frames.HEADERS, piece[2], piece[1], encoder.encode(raw)))
        assert (await good.ask("/t.T/Echo", b"me")).messages == [b"me"]
        await peer.close()
    await running.until(lambda: len(running.server.connections) == 1)
    await running.until_idle()
