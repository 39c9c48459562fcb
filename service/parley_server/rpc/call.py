"""What stands around every call: who it is from, one map from errors to statuses, one line and one count at its end.

No error text leaves here that is not a `ParleyError`'s; everything else is a defect, told by its call id alone.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

from parley_server.core.ids import new_id
from parley_server.core.model import Identity
from parley_server.core.observer import CallEnded, CallObserver
from parley_server.core.ports import Clock
from parley_server.core.replies.endings import defect
from parley_server.core.validation import check_key
from parley_server.errors import ParleyError, Reason
from parley_server.rpc.identity import END_USER, Identities, text_metadata
from parley_server.rpc.peer import Peer, peer_of
from parley_server.rpc.status import Trailers, code_of, status_of, trailers_of

logger = logging.getLogger("parley.call")

Context = grpc.aio.ServicerContext[Any, Any]
S = TypeVar("S", bound="Servicer")
Request = TypeVar("Request")
Response = TypeVar("Response")


NOBODY = Identity(tenant="")
# A caller whose deadline passes ends its call itself, a little before this server's clock says so: by the time that a
# packet takes, and by up to a hundredth of the whole, to which gRPC rounds deadlines up on the wire.
DEADLINE_SLACK_S = 0.05
DEADLINE_ROUNDING = 0.01


@dataclass
class Caller:
    """One call: who makes it, and what its log line will say."""

    call_id: str
    metadata: dict[str, str]
    peer: Peer | None = None
    """Whose TLS certificate the connection showed, where the server asks for one."""
    allowed_s: float = 0.0
    """Seconds from its start to its deadline; 0 without one."""
    identity: Identity = NOBODY
    reply_id: str = ""
    code: str = "OK"
    reason: str = ""

    @property
    def traceparent(self) -> str:
        """The W3C trace context of the call; empty where it has none."""
        return self.metadata.get("traceparent", "")[:256]

    def ended(self, method: str, duration_s: float) -> CallEnded:
        """The event of the call's end."""
        return CallEnded(
            method=method,
            code=self.code,
            duration_s=duration_s,
            reason=self.reason,
            tenant=self.identity.tenant,
            end_user=self.identity.end_user,
            call_id=self.call_id,
            reply_id=self.reply_id,
            traceparent=self.traceparent,
        )


class ReplyFailed(Exception):
    """A stream has shown its `failed` chunk; its status says the same."""

    def __init__(self, code: grpc.StatusCode, message: str, trailers: Trailers, reason: Reason) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.trailers = trailers
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class CallEnvironment:
    """What every call needs, of whichever service."""

    identities: Identities
    observer: CallObserver
    clock: Clock


class Servicer:
    """What the servicers of all services share."""

    def __init__(self, environment: CallEnvironment) -> None:
        self.environment = environment


def rpc(
    method: str,
) -> Callable[
    [Callable[[S, Request, Context, Caller], Awaitable[Response]]], Callable[[S, Request, Context], Awaitable[Response]]
]:
    """Make a method a gRPC handler: identify the caller, run it, end the call with the right status, and tell of it."""

    def decorate(
        body: Callable[[S, Request, Context, Caller], Awaitable[Response]],
    ) -> Callable[[S, Request, Context], Awaitable[Response]]:
        @functools.wraps(body)
        async def handle(self: S, request: Request, context: Context) -> Response:
            began = self.environment.clock.monotonic()
            caller = Caller(
                new_id(self.environment.clock.now_us()),
                text_metadata(context.invocation_metadata()),
                peer=peer_of(context.auth_context()),
                allowed_s=allowed_s(context),
            )
            try:
                caller.identity = self.environment.identities.identify(caller.metadata)
                check_key(END_USER, caller.identity.end_user)
                return await body(self, request, context, caller)
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
            except Exception:  # the only place where a defect becomes a status
                logger.exception("call_defect", extra={"fields": {"call_id": caller.call_id, "method": method}})
                await _abort_defect(context, caller)
            finally:
                duration_s = self.environment.clock.monotonic() - began
                self.environment.observer.call_ended(caller.ended(method, duration_s))
            raise AssertionError("abort raises")

        return handle

    return decorate


def allowed_s(context: Context) -> float:
    """Seconds until the call's deadline; 0 where it has none."""
    return _left_s(context) or 0.0


def ended_by(context: Context, allowed_s: float) -> str:
    """What to count a call as that has ended under its handler: its deadline passed, or its caller gave it up."""
    left = _left_s(context)
    if left is not None and left <= DEADLINE_SLACK_S + DEADLINE_ROUNDING * allowed_s:
        return grpc.StatusCode.DEADLINE_EXCEEDED.name
    return grpc.StatusCode.CANCELLED.name


def _left_s(context: Context) -> float | None:
    return context.time_remaining()  # whose type leaves out None, which stands for no deadline


async def _cancelled(context: Context, caller: Caller) -> None:
    """A real cancel of the call is passed on; one that leaked from an inner task would leave the client without any
    status until its deadline, so it is a defect."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        caller.code = ended_by(context, caller.allowed_s)
        return
    logger.error("cancel_leaked", extra={"fields": {"call_id": caller.call_id}})
    await _abort_defect(context, caller)


async def _abort_defect(context: Context, caller: Caller) -> None:
    error = defect(caller.call_id)
    code = code_of(error.reason)
    caller.code, caller.reason = code.name, error.reason.value
    await context.abort(code, error.message, trailers_of(error))
