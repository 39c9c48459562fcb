"""Two ways to ask for a reply and read it: gRPC, and HTTP straight to the upstream. Both only fill a `Transcript`."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from typing import Any, Protocol

import grpc
from google.rpc import error_details_pb2, status_pb2
from parley.v1 import chat_pb2

from benchmarks.tokens import Transcript

TEXT = (
    "Explain in a few short paragraphs why the sky is blue at noon and red in the evening, for a curious child of ten."
)
METHOD = "/parley.v1.Chat/StreamReply"
CHANNEL_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
]


class Caller(Protocol):
    """Asks for one reply at a time, any number of them at once."""

    async def open(self) -> None:
        """Connect, so that no call pays for it."""

    async def reply(self, model: str, transcript: Transcript) -> str:
        """Read one whole reply into `transcript`; the status as `CODE` or `CODE/REASON`."""

    async def close(self) -> None:
        """Disconnect."""


def status_of(error: grpc.aio.AioRpcError) -> str:
    """The code, and the reason where the application gave one: a transport that sheds a call gives none."""
    for key, value in error.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        for detail in status_pb2.Status.FromString(value).details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info):
                return f"{error.code().name}/{info.reason}"
    return error.code().name


class GrpcCaller:
    """Calls over several connections, so that no single one of them is the limit."""

    def __init__(self, address: str, *, channels: int, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._channels = [grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) for _ in range(channels)]
        self._calls = [
            channel.unary_stream(
                METHOD,
                request_serializer=chat_pb2.ReplyRequest.SerializeToString,
                response_deserializer=chat_pb2.TokenChunk.FromString,
            )
            for channel in self._channels
        ]
        self._turn = 0

    async def open(self) -> None:
        """Connect every channel."""
        await asyncio.gather(*(channel.channel_ready() for channel in self._channels))

    async def reply(self, model: str, transcript: Transcript) -> str:
        """As `Caller.reply`; every call has a request id, a conversation and a deadline of its own."""
        self._turn += 1
        request = chat_pb2.ReplyRequest(request_id=str(uuid.uuid4()), text=TEXT, model=model)
        call: Any = self._calls[self._turn % len(self._calls)](request, timeout=self._deadline_s)
        try:
            while (chunk := await call.read()) is not grpc.aio.EOF:
                note(chunk, transcript)
        except grpc.aio.AioRpcError as error:
            return status_of(error)
        return "OK"

    async def close(self) -> None:
        """Close every channel."""
        await asyncio.gather(*(channel.close() for channel in self._channels))


def note(chunk: chat_pb2.TokenChunk, transcript: Transcript) -> None:
    """Enter one chunk of the contract."""
    if transcript.ended:
        transcript.fault = transcript.fault or "a chunk after the end"
    kind = chunk.WhichOneof("event")
    if kind == "text":
        transcript.take(chunk.text)
    elif kind == "finished":
        transcript.end()
    elif kind in ("snapshot", "failed"):
        transcript.fault = transcript.fault or f"a {kind} chunk"


class UpstreamConnection(asyncio.Protocol):
    """One connection to the upstream that looks for tokens in the raw bytes and decodes nothing else."""

    TOKEN = re.compile(rb'"content":"( [0-9a-z]{8})"')
    DONE = b"data: [DONE]"
    TAIL_BYTES = 64

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._transcript: Transcript | None = None
        self._over: asyncio.Future[str] | None = None
        self._tail = b""

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self._transport = transport

    def ask(self, request: bytes, transcript: Transcript) -> asyncio.Future[str]:
        """Send one request; the future is its status."""
        assert self._transport is not None
        self._transcript, self._tail = transcript, b""
        self._over = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._over

    def data_received(self, data: bytes) -> None:
        """Enter the tokens of one read."""
        if self._transcript is None or self._over is None:
            return
        data = self._tail + data
        at = 0
        tokens = []
        for match in self.TOKEN.finditer(data):
            tokens.append(match[1])
            at = match.end()
        if tokens:
            self._transcript.take(b"".join(tokens).decode())
        done = data.find(self.DONE, at) >= 0
        self._tail = data[max(at, len(data) - self.TAIL_BYTES) :]
        if done and not self._over.done():
            self._transcript.end()
            self._over.set_result("OK")

    def connection_lost(self, exc: Exception | None) -> None:
        """A reply that is not over was cut."""
        if self._over is not None and not self._over.done():
            self._over.set_result(f"CUT {exc or ''}".strip())

    def close(self) -> None:
        """Disconnect."""
        if self._transport is not None:
            self._transport.close()


class HttpCaller:
    """Calls the upstream itself, on connections that are kept alive: what a reply takes without any server between."""

    def __init__(self, address: str, *, channels: int, deadline_s: float) -> None:
        self._host, port = address.rsplit(":", 1)
        self._port = int(port)
        self._ready = channels
        self._deadline_s = deadline_s
        self._idle: list[UpstreamConnection] = []

    async def open(self) -> None:
        """Open as many connections as calls will be running."""
        self._idle = [await self._connect() for _ in range(self._ready)]

    async def reply(self, model: str, transcript: Transcript) -> str:
        """As `Caller.reply`."""
        connection = self._idle.pop() if self._idle else await self._connect()
        over = connection.ask(self._request(model), transcript)
        try:
            status = await asyncio.wait_for(over, self._deadline_s)
        except TimeoutError:
            connection.close()
            return "DEADLINE_EXCEEDED"
        self._idle.append(connection)
        return status

    async def close(self) -> None:
        """Close what is idle."""
        for connection in self._idle:
            connection.close()

    async def _connect(self) -> UpstreamConnection:
        _, connection = await asyncio.get_running_loop().create_connection(UpstreamConnection, self._host, self._port)
        return connection

    def _request(self, model: str) -> bytes:
        message = {"role": "user", "content": TEXT}
        request = {"model": model, "messages": [message], "stream": True, "stream_options": {"include_usage": True}}
        body = json.dumps(request).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {self._host}\r\ncontent-length: {len(body)}\r\n\r\n"
        return head.encode() + body
