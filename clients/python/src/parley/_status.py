"""Which error a status or a `ReplyError` stands for, and what it says about trying again."""

from __future__ import annotations

from typing import Final, TypeVar

import grpc
from google.protobuf.message import DecodeError

from parley.errors import BY_CODE, BY_REASON, InternalError, ParleyError, ReplyFailed
from parley.v1 import errors_pb2

TRAILER: Final = "parley-error-bin"

Error = TypeVar("Error", bound=ParleyError)

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
_RETRYABLE: Final = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED}
# What proxies, a stopping server and RST_STREAM are seen to produce, beside UNAVAILABLE.
_CUT: Final = {grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}


def error_of_status(status: grpc.aio.AioRpcError) -> ParleyError:
    """The typed error of a call that ended with a status other than OK."""
    trailer = dict(status.trailing_metadata() or ()).get(TRAILER)
    if isinstance(trailer, bytes):
        try:
            return error_of_proto(errors_pb2.ReplyError.FromString(trailer))
        except DecodeError:
            pass  # somebody else's trailer: the code is what is left
    code = status.code()
    kind = BY_CODE.get(code, ParleyError)
    return kind(status.details() or code.name, code=code, retryable=code in _RETRYABLE)


def error_of_proto(proto: errors_pb2.ReplyError) -> ParleyError:
    """The typed error that a `ReplyError` stands for; a reason that is not known is read by its code."""
    kind = BY_REASON.get(_reason_name(proto.reason)) or BY_CODE.get(_code(proto), ParleyError)
    return error_of_kind(kind, proto)


def error_of_kind(kind: type[Error], proto: errors_pb2.ReplyError) -> Error:
    """An error of this class, with what a `ReplyError` says."""
    return kind(
        proto.message,
        reason=_reason_name(proto.reason),
        code=_code(proto),
        retryable=proto.retryable,
        retry_after_s=proto.retry_after.ToNanoseconds() / 1e9 if proto.HasField("retry_after") else None,
        metadata=dict(proto.metadata),
    )


def is_cut(error: ParleyError) -> bool:
    """Whether the call, and not what was asked for, has failed: the same call may be made again."""
    return error.code is grpc.StatusCode.UNAVAILABLE or (not error.reason and error.code in _CUT)


def ends_reply(error: ParleyError) -> bool:
    """Whether a status says what a lost terminal chunk would have said."""
    return bool(error.reason) and isinstance(error, ReplyFailed | InternalError)


def _code(proto: errors_pb2.ReplyError) -> grpc.StatusCode:
    return _CODES.get(proto.code, grpc.StatusCode.UNKNOWN)


def _reason_name(reason: int) -> str:
    """Without its prefix; `UNKNOWN_<n>` for a value newer than this client, "" for 0."""
    if reason == 0:
        return ""
    if reason not in errors_pb2.ErrorReason.values():
        return f"UNKNOWN_{reason}"
    return errors_pb2.ErrorReason.Name(errors_pb2.ErrorReason.ValueType(reason)).removeprefix("ERROR_REASON_")
