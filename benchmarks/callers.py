"""Clients of Parley's gRPC and of OpenAI's HTTP. Each requests a reply and reads it into a `Transcript`."""

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
START, RESUME = "/parley.v1.Chat/StreamReply", "/parley.v1.Chat/ResumeReply"
CHANNEL_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
]


class Caller(Protocol):
    """A client for any number of concurrent replies."""

    async def open(self) -> None:
        """Connect, so that no measured call includes it."""

    async def reply(self, model: str, transcript: Transcript) -> str:
        """Request a reply and read it into `transcript`; returns the status as `CODE` or `CODE/REASON`."""

    async def follow(self, reply_id: str, transcript: Transcript) -> str:
        """Read a running reply from its start, on the connection `transcript.channel`."""

    async def close(self) -> None:
        """Close all connections."""


def detail_of(error: grpc.aio.AioRpcError, detail: Any) -> Any:
    """The first detail of this kind in a rich status, or None."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for packed in status_pb2.Status.FromString(value).details:
                if packed.Unpack(detail):
                    return detail
    return None


def status_of(error: grpc.aio.AioRpcError) -> str:
    """The code and the application's reason; a call dropped by the transport has no reason."""
    info = detail_of(error, error_details_pb2.ErrorInfo())
    return f"{error.code().name}/{info.reason}" if info else error.code().name


def retry_of(error: grpc.aio.AioRpcError) -> float | None:
    """The seconds until a retry according to RetryInfo, or None."""
    info = detail_of(error, error_details_pb2.RetryInfo())
    return info.retry_delay.ToNanoseconds() / 1e9 if info else None


class GrpcCaller:
    """Calls Parley over several connections, so that one connection is not the limit. With `end_users`, that many end
    users call in turn, and cannot follow replies."""

    def __init__(
        self,
        address: str,
        *,
        channels: int,
        deadline_s: float,
        headers: dict[str, str] | None = None,
        end_users: int = 0,
    ) -> None:
        self._deadline_s = deadline_s
        self._end_users = end_users
        self._metadata = list((headers or {}).items())
        self._channels = [grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) for _ in range(channels)]
        self._starts = [_method(channel, START, chat_pb2.ReplyRequest) for channel in self._channels]
        self._resumes = [_method(channel, RESUME, chat_pb2.ResumeReplyRequest) for channel in self._channels]
        self._turn = 0

    async def open(self) -> None:
        await asyncio.gather(*(channel.channel_ready() for channel in self._channels))

    async def reply(self, model: str, transcript: Transcript) -> str:
        """As `Caller.reply`; every call has a new request id and starts a conversation."""
        self._turn += 1
        transcript.channel = self._turn % len(self._channels)
        request = chat_pb2.ReplyRequest(request_id=str(uuid.uuid4()), text=TEXT, model=model)
        metadata = self._metadata
        if self._end_users:
            metadata = [*metadata, ("x-end-user", f"user-{self._turn % self._end_users}")]
        return await self._read(self._starts[transcript.channel], request, transcript, metadata)

    async def follow(self, reply_id: str, transcript: Transcript) -> str:
        resume = self._resumes[transcript.channel % len(self._channels)]
        request = chat_pb2.ResumeReplyRequest(reply_id=reply_id)
        return await self._read(resume, request, transcript, self._metadata)

    async def _read(self, method: Any, request: Any, transcript: Transcript, metadata: list[tuple[str, str]]) -> str:
        call = method(request, timeout=self._deadline_s, metadata=metadata)
        try:
            while (chunk := await call.read()) is not grpc.aio.EOF:
                note(chunk, transcript)
        except grpc.aio.AioRpcError as error:
            transcript.retry_s = retry_of(error)
            return status_of(error)
        return "OK"

    async def close(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels))


def _method(channel: grpc.aio.Channel, name: str, request: Any) -> Any:
    return channel.unary_stream(
        name, request_serializer=request.SerializeToString, response_deserializer=chat_pb2.TokenChunk.FromString
    )


def note(chunk: chat_pb2.TokenChunk, transcript: Transcript) -> None:
    """Add one chunk to a transcript."""
    if transcript.ended:
        transcript.fault = transcript.fault or "a chunk after the end"
    kind = chunk.WhichOneof("event")
    if kind == "text":
        transcript.take(chunk.text)
    elif kind == "accepted":
        transcript.accept(chunk.reply_id)
    elif kind == "finished":
        transcript.end()
    elif kind in ("snapshot", "failed"):
        transcript.fault = transcript.fault or f"a {kind} chunk"


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection that finds tokens in the raw bytes and decodes nothing else."""

    TOKEN = re.compile(rb'"content":"( [0-9a-z]{8})"')
    DONE = b"data: [DONE]"
    TAIL_BYTES = 64

    def __init__(self) -> None:
        self.closed = False
        self._transport: asyncio.Transport | None = None
        self._transcript: Transcript | None = None
        self._over: asyncio.Future[str] | None = None
        self._tail = b""
        self._begun = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def ask(self, request: bytes, transcript: Transcript) -> asyncio.Future[str]:
        """Send one request; the result of the future is its status."""
        assert self._transport is not None
        self._transcript, self._tail, self._begun = transcript, b"", False
        self._over = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._over

    def data_received(self, data: bytes) -> None:
        """Add the tokens of one read to the transcript."""
        if self._transcript is None or self._over is None or self._over.done():
            return
        data = self._tail + data
        if not self._begun and (refusal := self._refusal(data)):
            self._over.set_result(refusal)
            self.close()
            return
        at = 0
        tokens = []
        for match in self.TOKEN.finditer(data):
            tokens.append(match[1])
            at = match.end()
        if tokens:
            self._transcript.take(b"".join(tokens).decode())
        done = data.find(self.DONE, at) >= 0
        self._tail = data[max(at, len(data) - self.TAIL_BYTES) :]
        if done:
            self._transcript.end()
            self._over.set_result("OK")

    def connection_lost(self, exc: Exception | None) -> None:
        """End the running reply, if any, as cut."""
        self.closed = True
        if self._over is not None and not self._over.done():
            self._over.set_result(f"CUT {exc or ''}".strip())

    def close(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.close()

    def _refusal(self, data: bytes) -> str:
        """The status if it is not 200, or empty. Skips the rest of the previous response, such as its last chunk."""
        at = data.find(b"HTTP/1.1 ")
        if at < 0 or len(data) < at + 12:
            return ""
        self._begun = True
        status = data[at + 9 : at + 12].decode()
        return "" if status == "200" else f"HTTP {status}"


class HttpCaller:
    """Calls a gateway or the upstream on connections that are kept alive."""

    def __init__(self, address: str, *, channels: int, deadline_s: float, headers: dict[str, str]) -> None:
        self._host, port = address.rsplit(":", 1)
        self._port = int(port)
        self._ready = channels
        self._deadline_s = deadline_s
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._idle: list[Connection] = []

    async def open(self) -> None:
        """Open one connection for each concurrent call."""
        self._idle = [await self._connect() for _ in range(self._ready)]

    async def reply(self, model: str, transcript: Transcript) -> str:
        connection = await self._free()
        over = connection.ask(self._request(model), transcript)
        try:
            status = await asyncio.wait_for(over, self._deadline_s)
        except TimeoutError:
            connection.close()
            return "DEADLINE_EXCEEDED"
        self._idle.append(connection)
        return status

    async def follow(self, reply_id: str, transcript: Transcript) -> str:
        """A gateway has no further readers."""
        raise NotImplementedError

    async def close(self) -> None:
        for connection in self._idle:
            connection.close()

    async def _free(self) -> Connection:
        """An idle connection that the server has not closed, or a new one."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        return await self._connect()

    async def _connect(self) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(Connection, self._host, self._port)
        return connection

    def _request(self, model: str) -> bytes:
        message = {"role": "user", "content": TEXT}
        request = {"model": model, "messages": [message], "stream": True, "stream_options": {"include_usage": True}}
        body = json.dumps(request).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {self._host}\r\n{self._headers}"
        return f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
