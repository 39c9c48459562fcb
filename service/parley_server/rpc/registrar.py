"""Registers handlers that read the request themselves, so that calls which end before that are counted as well."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import grpc

from parley_server.core.observer import CallEnded
from parley_server.errors import InvalidRequest, ParleyError
from parley_server.rpc.call import CallEnvironment, Context, Received, ended_by, left_s
from parley_server.rpc.status import status_of

UNKNOWN_METHOD = "unknown"
"""The method under which calls of unknown methods are counted, because callers can invent any number of names."""

Handler = Any  # grpc.RpcMethodHandler, whose types omit its fields


class Registrar:
    """Takes the handlers of generated code, like a `grpc.aio.Server`, and registers them with a server.

    For a method with one request, grpc.aio reads the request itself, and drops a call that ends before, or whose
    request is too large, without running any code of the handler. So each method is registered as one with a stream of
    requests, which is the same on the wire, and `_enter` reads the request. `rpc` parses it, after it has identified
    the caller.
    """

    def __init__(self, server: grpc.aio.Server, environment: CallEnvironment) -> None:
        self._server = server
        self._environment = environment

    def add_generic_rpc_handlers(self, handlers: Sequence[Handler]) -> None:
        """Ignore: generated code registers each handler twice, and only the other call has its name."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Register the methods of a service, by name. Each has one request."""
        entered = {name: self._entered(f"/{service}/{name}", handler) for name, handler in handlers.items()}
        self._server.add_registered_method_handlers(service, entered)

    def refuse_unknown_methods(self) -> None:
        """Refuse and count calls of any other method. Must be called last."""
        # gRPC tries the generic handlers in their order, and this one accepts every method: one that is
        # added later would have no effect.
        self._server.add_generic_rpc_handlers((_UnknownMethods(self._environment),))

    def _entered(self, method: str, handler: Handler) -> Handler:
        body = handler.unary_stream if handler.response_streaming else handler.unary_unary
        wrap = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        enter = _enter(self._environment, method, body, handler.request_deserializer)
        return wrap(enter, response_serializer=handler.response_serializer)


def _enter(
    environment: CallEnvironment,
    method: str,
    body: Callable[[Any, Context], Awaitable[Any]],
    parse: Callable[[bytes], Any],
) -> Callable[[Any, Context], Awaitable[Any]]:
    async def handle(_: Any, context: Context) -> Any:
        began, allowed = environment.clock.monotonic(), left_s(context) or 0.0
        try:
            received = await context.read()
        except asyncio.CancelledError:
            _count(environment, method, ended_by(context, allowed), began)
            raise
        if received is grpc.aio.EOF:
            error = InvalidRequest("the call has no request")
            await _refuse(environment, method, context, error, began=began, allowed=allowed)
            return None
        return await body(Received(received, parse), context)

    return handle


async def _refuse(
    environment: CallEnvironment, method: str, context: Context, error: ParleyError, *, began: float, allowed: float
) -> None:
    code, message, trailers = status_of(error)
    ended = ""  # the status by which the call had ended before it could be refused
    try:
        await context.abort(code, message, trailers)
    except (grpc.aio.InternalError, asyncio.CancelledError) as gone:
        # The call had already ended: its caller cancelled, or the transport refused a request that was too large.
        ended = ended_by(context, allowed)
        if isinstance(gone, asyncio.CancelledError):
            raise
    finally:
        _count(environment, method, ended or code.name, began, reason="" if ended else error.reason.value)


def _count(environment: CallEnvironment, method: str, code: str, began: float, *, reason: str = "") -> None:
    duration_s = environment.clock.monotonic() - began
    environment.observer.call_ended(CallEnded(method=method, code=code, duration_s=duration_s, reason=reason))


class _UnknownMethods(grpc.GenericRpcHandler):
    """Handles calls of methods without a handler."""

    def __init__(self, environment: CallEnvironment) -> None:
        self._environment = environment

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler:
        """See grpc.GenericRpcHandler."""
        environment, method = self._environment, handler_call_details.method

        async def refuse(_: Any, context: Context) -> None:
            began = environment.clock.monotonic()
            try:
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"there is no method {method[:256]}")
            finally:
                _count(environment, UNKNOWN_METHOD, grpc.StatusCode.UNIMPLEMENTED.name, began)

        return grpc.stream_stream_rpc_method_handler(refuse)
