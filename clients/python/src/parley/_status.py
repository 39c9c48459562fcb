"""Converts statuses and `ReplyError`s to typed errors, and decides which errors are retried."""

from __future__ import annotations

from typing import Final, TypeVar

import grpc
from google.protobuf.message import DecodeError

from parley.errors import BY_CODE, BY_REASON, InternalError, ParleyError, RateLimited, ReplyFailed, Unavailable
from parley.v1 import errors_pb2

TRAILER: Final = "parley-error-bin"

Error = TypeVar("Error", bound=ParleyError)

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
# Codes that proxies, a stopping server and RST_STREAM produce, in addition to UNAVAILABLE. Parley's own INTERNAL has a
# reason.
_CUT: Final = {grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
# gRPC's words for a stream that a proxy has ended with HTTP/2's ENHANCE_YOUR_CALM, to limit its load.
_CALMED: Final = "RST_STREAM"
_RETRYABLE: Final = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, *_CUT}


def error_of_status(status: grpc.aio.AioRpcError) -> ParleyError:
    """Returns the error of a call that ended with a status other than OK."""
    trailer = dict(status.trailing_metadata() or ()).get(TRAILER)
    if isinstance(trailer, bytes):
        try:
            return error_of_proto(errors_pb2.ReplyError.FromString(trailer))
        except DecodeError:
            pass  # not a trailer of Parley: use the code
    code, details = status.code(), status.details() or ""
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _CALMED in details:
        code = grpc.StatusCode.UNAVAILABLE  # the code of gRPC is also that of a request that is too large
    kind = Unavailable if code in _CUT else BY_CODE.get(code, ParleyError)
    return kind(details or code.name, code=code, retryable=code in _RETRYABLE)


def error_of_proto(proto: errors_pb2.ReplyError) -> ParleyError:
    """Returns the error of a `ReplyError`. An unknown reason gives the class of its status code."""
    kind = BY_REASON.get(_reason_name(proto.reason)) or BY_CODE.get(_code(proto), ParleyError)
    return error_of_kind(kind, proto)


def error_of_kind(kind: type[Error], proto: errors_pb2.ReplyError) -> Error:
    """Returns an error of class `kind` with the fields of a `ReplyError`."""
    return kind(
        proto.message,
        reason=_reason_name(proto.reason),
        code=_code(proto),
        retryable=proto.retryable,
        retry_after_s=proto.retry_after.ToNanoseconds() / 1e9 if proto.HasField("retry_after") else None,
        metadata=dict(proto.metadata),
    )


def may_retry(error: ParleyError) -> bool:
    """True if the same call may be retried: no server was available, the call was cut, or a rate is limited."""
    limited = isinstance(error, RateLimited) and error.retryable
    return limited or error.code is grpc.StatusCode.UNAVAILABLE or (not error.reason and error.code in _CUT)


def ends_reply(error: ParleyError) -> bool:
    """True if the error is the end of the reply, as in its terminal chunk."""
    return bool(error.reason) and isinstance(error, ReplyFailed | InternalError)


def _code(proto: errors_pb2.ReplyError) -> grpc.StatusCode:
    return _CODES.get(proto.code, grpc.StatusCode.UNKNOWN)


def _reason_name(reason: int) -> str:
    """The name without its prefix; `UNKNOWN_<n>` for a value that the client does not have, "" for 0."""
    if reason == 0:
        return ""
    if reason not in errors_pb2.ErrorReason.values():
        return f"UNKNOWN_{reason}"
    return errors_pb2.ErrorReason.Name(errors_pb2.ErrorReason.ValueType(reason)).removeprefix("ERROR_REASON_")
