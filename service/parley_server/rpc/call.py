"""Wraps every RPC: identifies the caller, maps errors to statuses, logs and counts the call.

Callers see only the text of a `ParleyError`. Any other exception is a defect, of which they see only the call id.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import grpc
from google.protobuf.message import DecodeError

from parley_server.core.access import AccessRole, Principal
from parley_server.core.ids import new_id
from parley_server.core.model import Identity
from parley_server.core.observer import CallEnded, CallObserver
from parley_server.core.ports import Authenticator, Clock
from parley_server.core.replies.endings import internal_error
from parley_server.core.store_types import KeyPlace
from parley_server.core.tracing import NO_TRACER, Tracer, current_span
from parley_server.errors import Forbidden, InvalidRequest, ParleyError, Reason, Unauthenticated
from parley_server.rpc.credentials import credentials_of, text_metadata
from parley_server.rpc.status import Trailers, code_of, status_of, trailers_of

logger = logging.getLogger("parley.call")

Context = grpc.aio.ServicerContext[Any, Any]
S = TypeVar("S", bound="Servicer")
Request = TypeVar("Request")
Response = TypeVar("Response")


MAX_LOGGED = 128
"""Characters of a name in a log line."""
NO_TARGET = KeyPlace("", "")
UNIDENTIFIED = Principal(tenant="")
ROLES: dict[str, AccessRole | None] = {}
"""The role that each method needs, by its full name; None: any."""
# A caller whose deadline passes ends its call slightly before the deadline by this server's clock: by the latency of
# the network, and by up to a hundredth of the duration, because gRPC rounds deadlines up on the wire.
DEADLINE_SLACK_S = 0.05
DEADLINE_ROUNDING = 0.01


@dataclass
class Caller:
    """One call: its caller, and the fields of its log line."""

    call_id: str
    metadata: dict[str, str]
    allowed_s: float = 0.0
    """Seconds from the start to the deadline; 0 without a deadline."""
    principal: Principal = UNIDENTIFIED
    reply_id: str = ""
    code: str = "OK"
    reason: str = ""
    cause: str = ""
    """Why the credential was refused."""
    target: KeyPlace = NO_TARGET
    """The key that a call of Admin is about."""

    @property
    def identity(self) -> Identity:
        """The caller as the store filters by it."""
        return self.principal.identity

    @property
    def traceparent(self) -> str:
        """The W3C trace context of the call; empty if it has none."""
        # A valid one has 55 characters. The limit applies to what callers invent, since it is logged and passed on.
        return self.metadata.get("traceparent", "")[:256]

    def ended(self, method: str, duration_s: float) -> CallEnded:
        """The event of the call's end."""
        return CallEnded(
            method=method,
            code=self.code,
            duration_s=duration_s,
            reason=self.reason,
            tenant=self.principal.tenant,
            end_user=self.principal.end_user,
            credential=self.principal.credential,
            cause=self.cause,
            call_id=self.call_id,
            reply_id=self.reply_id,
            traceparent=self.traceparent,
            target_provider=self.target.provider[:MAX_LOGGED],
            target_tenant=self.target.tenant[:MAX_LOGGED],
        )


class ReplyFailed(Exception):
    """The status of a stream that has sent its `failed` chunk with the same error."""

    def __init__(self, code: grpc.StatusCode, message: str, trailers: Trailers, reason: Reason) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.trailers = trailers
        self.reason = reason


@dataclass(frozen=True)
class Received(Generic[Request]):
    """The bytes of a request, and the function that parses them."""

    data: bytes
    parse: Callable[[bytes], Request]

    def parsed(self) -> Request:
        """The request. Raises `InvalidRequest`."""
        try:
            return self.parse(self.data)
        except DecodeError:
            raise InvalidRequest("the request is not a message of its method's type") from None


@dataclass(frozen=True, kw_only=True)
class CallEnvironment:
    """The parts that the calls of all services need."""

    authenticator: Authenticator
    observer: CallObserver
    clock: Clock
    tracer: Tracer = NO_TRACER


class Servicer:
    """Base of the servicers of all services."""

    def __init__(self, environment: CallEnvironment) -> None:
        self.environment = environment


def rpc(
    method: str, *, role: AccessRole | None = AccessRole.CLIENT
) -> Callable[
    [Callable[[S, Request, Context, Caller], Awaitable[Response]]], Callable[[S, Request, Context], Awaitable[Response]]
]:
    """Make a method a gRPC handler that identifies the caller, runs the method, and ends and reports the call. `role`:
    the role that the caller needs; None: any. Callers are identified and authorized nowhere else.

    The handler is called with a `Received` in place of the request, so that only requests of known callers are
    parsed."""
    ROLES[method] = role

    def decorate(
        body: Callable[[S, Request, Context, Caller], Awaitable[Response]],
    ) -> Callable[[S, Request, Context], Awaitable[Response]]:
        @functools.wraps(body)
        async def handle(self: S, request: Request, context: Context) -> Response:
            began = self.environment.clock.monotonic()
            caller = Caller(
                new_id(self.environment.clock.now_us()),
                text_metadata(context.invocation_metadata()),
                allowed_s=left_s(context) or 0.0,
            )
            span = self.environment.tracer.call(method, caller.metadata)
            current_span.set(span)  # the task of the call ends with it
            try:
                # In here, so that a refused credential is mapped, logged and counted like any other error.
                await _identify(self.environment, context, caller)
                _check_role(caller, role)
                return await body(self, cast(Received[Request], request).parsed(), context, caller)
            except asyncio.CancelledError:
                await _cancelled(context, caller)
                raise
            except grpc.aio.InternalError:  # of a write, before grpc.aio cancels the handler
                caller.code = ended_by(context, caller.allowed_s)
                raise
            except ReplyFailed as failed:
                caller.code, caller.reason = failed.code.name, failed.reason.value
                await context.abort(failed.code, failed.message, failed.trailers)
            except ParleyError as error:
                code, message, trailers = status_of(error)
                caller.code, caller.reason = code.name, error.reason.value
                await context.abort(code, message, trailers)
            except Exception:  # the only place that maps defects to a status
                logger.exception("call_failed", extra={"fields": {"call_id": caller.call_id, "method": method}})
                await _abort_defect(context, caller)
            finally:
                duration_s = self.environment.clock.monotonic() - began
                ended = caller.ended(method, duration_s)
                self.environment.observer.call_ended(ended)
                span.end(ended)
            raise AssertionError("abort always raises")

        return handle

    return decorate


async def _identify(environment: CallEnvironment, context: Context, caller: Caller) -> None:
    """Set the caller's principal. Raises what `Authenticator.authenticate` raises."""
    began, authenticator = environment.clock.monotonic(), environment.authenticator
    try:
        credentials = credentials_of(context.invocation_metadata(), context.auth_context())
        # Nearly all callers are known without a wait.
        caller.principal = authenticator.known(credentials) or await authenticator.authenticate(credentials)
    except Unauthenticated as error:
        caller.cause = error.cause
        environment.observer.auth_failed(error.cause)
        raise
    finally:
        environment.observer.authenticated(environment.clock.monotonic() - began)


def _check_role(caller: Caller, role: AccessRole | None) -> None:
    if role is not None and role not in caller.principal.roles:
        raise Forbidden(f"the credential does not have the role {role}")


def left_s(context: Context) -> float | None:
    """Seconds until the deadline of the call; None without a deadline."""
    return context.time_remaining()  # its type omits None


def ended_by(context: Context, allowed_s: float) -> str:
    """The status name to count for a call that ended before its handler: DEADLINE_EXCEEDED or CANCELLED."""
    left = left_s(context)
    if left is not None and left <= DEADLINE_SLACK_S + DEADLINE_ROUNDING * allowed_s:
        return grpc.StatusCode.DEADLINE_EXCEEDED.name
    return grpc.StatusCode.CANCELLED.name


async def _cancelled(context: Context, caller: Caller) -> None:
    """Record a cancel of the call. A CancelledError that leaked from an inner task is a defect instead: without a
    status, the client would wait until its deadline."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        caller.code = ended_by(context, caller.allowed_s)
        return
    logger.error("cancel_leaked", extra={"fields": {"call_id": caller.call_id}})
    await _abort_defect(context, caller)


async def _abort_defect(context: Context, caller: Caller) -> None:
    error = internal_error(caller.call_id)
    code = code_of(error.reason)
    caller.code, caller.reason = code.name, error.reason.value
    await context.abort(code, error.message, trailers_of(error))
