"""A gRPC server with scripted answers such as cut streams and refusals, and a proxy that breaks connections."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from parley.v1 import admin_pb2, catalog_pb2, chat_pb2, conversations_pb2, errors_pb2, resources_pb2

Chunk = chat_pb2.TokenChunk
REPLY_ID = "reply-1"
CONVERSATION_ID = "conversation-1"


def accepted(*, reply_id: str = REPLY_ID, sequence: int = 0, conversation_id: str = CONVERSATION_ID) -> Chunk:
    """The first chunk of every stream."""
    return Chunk(
        reply_id=reply_id,
        sequence=sequence,
        accepted=chat_pb2.Accepted(
            conversation_id=conversation_id,
            message_id="message-2",
            input_message_ids=["message-1"],
            model="scripted",
            ignored_settings=["seed"],
        ),
    )


def text(sequence: int, piece: str) -> Chunk:
    """A piece of the answer."""
    return Chunk(sequence=sequence, text=piece)


def texts(*pieces: str) -> list[Chunk]:
    """Pieces numbered from 1."""
    return [text(i, piece) for i, piece in enumerate(pieces, 1)]


def finished(sequence: int, reason: int = resources_pb2.FINISH_REASON_STOP, cancel_reason: str = "") -> Chunk:
    """The terminal chunk of a reply that did not fail."""
    usage = resources_pb2.Usage(prompt_tokens=3, completion_tokens=5)
    end = chat_pb2.Finished(
        reason=reason, usage=usage, model="spare", provider="typewriter", cancel_reason=cancel_reason
    )
    return Chunk(sequence=sequence, finished=end)


def failed(sequence: int, error: errors_pb2.ReplyError) -> Chunk:
    """The terminal chunk of a failed reply."""
    usage = resources_pb2.Usage(prompt_tokens=3)
    return Chunk(
        sequence=sequence, failed=chat_pb2.Failed(error=error, usage=usage, model="spare", provider="typewriter")
    )


def snapshot(sequence: int, whole: str) -> Chunk:
    message = resources_pb2.Message(parts=[resources_pb2.Part(text=whole)])
    return Chunk(sequence=sequence, snapshot=resources_pb2.Reply(id=REPLY_ID, message=message))


def reply_error(
    code: grpc.StatusCode,
    reason: str,
    *,
    message: str = "as scripted",
    retryable: bool = False,
    retry_after_s: float | None = None,
    metadata: dict[str, str] | None = None,
) -> errors_pb2.ReplyError:
    """The error in the trailer and in a `failed` chunk."""
    error = errors_pb2.ReplyError(
        code=code.value[0],
        reason=errors_pb2.ErrorReason.Value(f"ERROR_REASON_{reason}"),
        message=message,
        retryable=retryable,
        metadata=metadata,
    )
    if retry_after_s is not None:
        error.retry_after.FromNanoseconds(round(retry_after_s * 1e9))
    return error


@dataclass
class Abort:
    """A step: end the call with this status, bare or with Parley's trailer."""

    code: grpc.StatusCode
    error: errors_pb2.ReplyError | None = None

    def __str__(self) -> str:
        return self.code.name if self.error is None else errors_pb2.ErrorReason.Name(self.error.reason)


def refusal(code: grpc.StatusCode, reason: str, **fields: Any) -> Abort:
    """A status as Parley sends it."""
    return Abort(code, reply_error(code, reason, **fields))


@dataclass
class Wait:
    """A step: wait for the event."""

    event: asyncio.Event


@dataclass
class Headers:
    """A step: send the response headers alone."""


@dataclass
class Break:
    """A step: break the connection; needs the proxy."""


Step = Chunk | Abort | Wait | Headers | Break


@dataclass
class Call:
    """A call that the server has received."""

    method: str
    request: Any
    metadata: dict[str, Any]
    written: int = 0
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Cut:
    """A fault of one call that reads the log: `how` happens after this many chunks, including `accepted`."""

    after: int
    how: Step | None = None


class ScriptedServer:
    """Answers each stream call with the next of `scripts`, or without one from `log` with the next of `cuts`.

    unary: the answers of unary calls by method, as a function of the request or a list of messages and Aborts. The last
    one of a list is repeated.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.scripts: deque[list[Step]] = deque()
        self.log: list[Chunk] = []
        self.cuts: deque[Cut] = deque()
        self.unary: dict[str, list[Any] | Callable[[Any], Any]] = {}
        self.address = ""
        self.proxy: Proxy | None = None
        self.arrived = asyncio.Condition()

    def methods(self) -> list[str]:
        """The names of the calls so far, in order."""
        return [call.method for call in self.calls]

    async def seen(self, count: int, method: str = "") -> Call:
        """Waits for the n-th call (of a method), counted from 1."""

        def found() -> list[Call]:
            return [call for call in self.calls if method in {"", call.method}]

        async with self.arrived:
            await self.arrived.wait_for(lambda: len(found()) >= count)
        return found()[count - 1]

    def routes(self, service: ServiceDescriptor) -> grpc.GenericRpcHandler:
        """gRPC handlers for every method of a service."""
        return grpc.method_handlers_generic_handler(
            service.full_name, {method.name: self._route(method) for method in service.methods}
        )

    def _route(self, method: MethodDescriptor) -> grpc.RpcMethodHandler:
        async def answer(request: Any, context: Any) -> Any:
            return await self._answer(method.name, request, context)

        async def stream(request: Any, context: Any) -> None:
            await self._stream(method.name, request, context)

        codec: dict[str, Any] = {
            "request_deserializer": GetMessageClass(method.input_type).FromString,
            "response_serializer": GetMessageClass(method.output_type).SerializeToString,
        }
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(stream, **codec)
        return grpc.unary_unary_rpc_method_handler(answer, **codec)

    async def _record(self, method: str, request: Any, context: Any) -> Call:
        call = Call(method, request, dict(context.invocation_metadata()))
        self.calls.append(call)
        async with self.arrived:
            self.arrived.notify_all()
        return call

    async def _answer(self, method: str, request: Any, context: Any) -> Any:
        await self._record(method, request, context)
        answers = self.unary.get(method)
        if answers is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, method)
        answer = answers(request) if callable(answers) else answers[0]
        if not callable(answers) and len(answers) > 1:
            answers.pop(0)
        if isinstance(answer, Abort):
            await _abort(answer, context)
        return answer

    async def _stream(self, method: str, request: Any, context: Any) -> None:
        call = await self._record(method, request, context)
        after_sequence = request.after_sequence if method == "ResumeReply" else 0
        steps = self.scripts.popleft() if self.scripts else self._from_log(after_sequence)
        try:
            for step in steps:
                await self._do(step, context, call)
        except asyncio.CancelledError:
            call.cancelled.set()
            raise

    def _from_log(self, after_sequence: int) -> list[Step]:
        end = self.log[-1].sequence
        entries = [entry for entry in self.log if entry.sequence > after_sequence]
        steps: list[Step] = [accepted(sequence=after_sequence), *(entries or [self.log[-1]])]
        assert end >= after_sequence
        if not self.cuts:
            return steps
        cut = self.cuts.popleft()
        return [*steps[: cut.after], *([cut.how] if cut.how else [])] if cut.after < len(steps) else steps

    async def _do(self, step: Step, context: Any, call: Call) -> None:
        if isinstance(step, Chunk):
            await context.write(step)
            call.written += 1
        elif isinstance(step, Abort):
            await _abort(step, context)
        elif isinstance(step, Wait):
            await step.event.wait()
        elif isinstance(step, Headers):
            await context.send_initial_metadata(())
        else:
            assert self.proxy is not None
            self.proxy.break_all()
            await asyncio.Event().wait()


async def _abort(step: Abort, context: Any) -> None:
    trailers = (("parley-error-bin", step.error.SerializeToString()),) if step.error else ()
    await context.abort(step.code, step.error.message if step.error else "bare", trailing_metadata=trailers)


class Proxy:
    """Forwards TCP to a local port, and can break all its connections at once."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._writers: set[asyncio.StreamWriter] = set()
        self.address = ""
        self.accepted = 0

    def break_all(self) -> None:
        """Resets every connection, as a dying machine or load balancer does."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def serve(self, client: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        """Forwards one connection both ways."""
        self.accepted += 1
        server, server_out = await asyncio.open_connection("127.0.0.1", self._target_port)
        self._writers |= {client_out, server_out}
        try:
            await asyncio.gather(_pump(client, server_out), _pump(server, client_out))
        finally:
            self._writers -= {client_out, server_out}


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while block := await source.read(65536):
            sink.write(block)
            await sink.drain()
    sink.transport.abort()


@contextlib.asynccontextmanager
async def running(*, with_proxy: bool = False, port: int = 0) -> AsyncIterator[ScriptedServer]:
    """A server on loopback. With a proxy, `address` is that of the proxy."""
    scripted = ScriptedServer()
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers(
        (
            scripted.routes(chat_pb2.DESCRIPTOR.services_by_name["Chat"]),
            scripted.routes(conversations_pb2.DESCRIPTOR.services_by_name["Conversations"]),
            scripted.routes(catalog_pb2.DESCRIPTOR.services_by_name["Catalog"]),
            scripted.routes(admin_pb2.DESCRIPTOR.services_by_name["Admin"]),
        )
    )
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    scripted.address = f"127.0.0.1:{bound}"
    forwarding = None
    if with_proxy:
        scripted.proxy = Proxy(bound)
        forwarding = await asyncio.start_server(scripted.proxy.serve, "127.0.0.1", 0)
        scripted.address = f"127.0.0.1:{forwarding.sockets[0].getsockname()[1]}"
    try:
        yield scripted
    finally:
        await server.stop(0)
        if forwarding is not None:
            forwarding.close()
            assert scripted.proxy is not None
            scripted.proxy.break_all()
