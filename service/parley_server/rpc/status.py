"""Converts errors to gRPC statuses, with their details and a trailer for languages without rich statuses."""

from __future__ import annotations

import math
from itertools import islice

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as ProtoMessage
from google.rpc import error_details_pb2, status_pb2
from parley.v1 import errors_pb2

from parley_server.core.events import utf8_prefix
from parley_server.core.model import ReplyError
from parley_server.errors import ParleyError, Reason

DOMAIN = "parley.v1"
# Limits in bytes and counts that keep all trailers below 8 KiB, the limit of gRPC clients. A byte of the text takes up
# to 3 in `grpc-message`, and 3 bytes of a binary trailer take 4 on the wire.
MAX_TEXT = 384
MAX_KEY = 32
MAX_NAME = 96
MAX_VALUE = 160
MAX_METADATA = 6
MAX_VIOLATIONS = 4
MAX_WAIT_S = 365 * 86_400.0

Trailers = tuple[tuple[str, str | bytes], ...]

_CODES: dict[Reason, grpc.StatusCode] = {
    Reason.INVALID_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.UNSUPPORTED_INPUT: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.CONTEXT_TOO_LARGE: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.INPUT_TOO_LARGE: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    Reason.CONVERSATION_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.MESSAGE_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.REPLY_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.MODEL_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.PROVIDER_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.IMAGE_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.REQUEST_ID_REUSED: grpc.StatusCode.ALREADY_EXISTS,
    Reason.CONVERSATION_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Reason.REPLY_IN_PROGRESS: grpc.StatusCode.ABORTED,
    Reason.ETAG_MISMATCH: grpc.StatusCode.ABORTED,
    Reason.RATE_LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.QUOTA_EXCEEDED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.TOO_MANY_READERS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.NOT_CONFIGURED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.DRAINING: grpc.StatusCode.UNAVAILABLE,
    Reason.OVERLOADED: grpc.StatusCode.UNAVAILABLE,
    Reason.STORAGE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.IDENTITY_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.INTERNAL: grpc.StatusCode.INTERNAL,
}
_LIMITS = (Reason.RATE_LIMITED, Reason.QUOTA_EXCEEDED)
"""The reasons whose violations are shown as a QuotaFailure: (subject, description)."""


def code_of(reason: Reason) -> grpc.StatusCode:
    """The status code of a reason; of one that fails an accepted reply ABORTED, so that no mesh ejects a replica."""
    return _CODES.get(reason, grpc.StatusCode.ABORTED)


def error_message(error: ReplyError) -> errors_pb2.ReplyError:
    """The error as a message for a reply, a chunk or the trailer."""
    message = errors_pb2.ReplyError(
        code=_number(code_of(error.shown_reason)),
        reason=errors_pb2.ErrorReason.Value(f"ERROR_REASON_{error.shown_reason}"),
        message=utf8_prefix(error.message, MAX_TEXT),
        retryable=error.retryable,
        metadata={
            utf8_prefix(key, MAX_KEY): utf8_prefix(value, MAX_VALUE)
            for key, value in islice(error.metadata.items(), MAX_METADATA)
        },
    )
    if (wait := _wait(error)) is not None:
        message.retry_after.CopyFrom(wait)
    return message


def trailers_of(error: ReplyError, violations: tuple[tuple[str, str], ...] = ()) -> Trailers:
    """The trailers of a status: a `google.rpc.Status` with ErrorInfo, RetryInfo, and BadRequest or QuotaFailure as they
    apply, and the error as a `ReplyError` in `parley-error-bin`."""
    plain = error_message(error)
    # Clients read these standard details, or else the trailer: Node's gRPC has no decoder for them.
    details: list[ProtoMessage] = [
        error_details_pb2.ErrorInfo(reason=error.shown_reason.value, domain=DOMAIN, metadata=dict(plain.metadata))
    ]
    if (wait := _wait(error)) is not None:
        details.append(error_details_pb2.RetryInfo(retry_delay=wait))
    if violations:
        shown = [(utf8_prefix(name, MAX_NAME), utf8_prefix(text, MAX_VALUE)) for name, text in violations]
        about_limit = error.shown_reason in _LIMITS
        details.append(_quota_failure(shown[:MAX_VIOLATIONS]) if about_limit else _bad_request(shown[:MAX_VIOLATIONS]))
    status = status_pb2.Status(code=plain.code, message=plain.message)
    for detail in details:
        status.details.append(_packed(detail))
    return (
        ("grpc-status-details-bin", status.SerializeToString()),
        ("parley-error-bin", plain.SerializeToString()),
    )


def _bad_request(violations: list[tuple[str, str]]) -> error_details_pb2.BadRequest:
    detail = error_details_pb2.BadRequest()
    for path, problem in violations:
        detail.field_violations.add(field=path, description=problem)
    return detail


def _quota_failure(violations: list[tuple[str, str]]) -> error_details_pb2.QuotaFailure:
    detail = error_details_pb2.QuotaFailure()
    for subject, text in violations:
        detail.violations.add(subject=subject, description=text)
    return detail


def status_of(error: ParleyError) -> tuple[grpc.StatusCode, str, Trailers]:
    """The code, message and trailers for a call that raises `error`."""
    plain = ReplyError.of(error)
    return code_of(error.reason), utf8_prefix(error.message, MAX_TEXT), trailers_of(plain, error.violations)


def _packed(detail: ProtoMessage) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(detail)
    return packed


def _wait(error: ReplyError) -> Duration | None:
    """The wait before a retry, at most a year; None if the error has no valid one."""
    seconds = error.retry_after_s
    # The condition is also false for NaN, which a comparison with < 0 would let pass.
    if seconds is None or not 0 <= seconds < math.inf:
        return None
    # Rounded, since 57.925 in binary is a little less: nanoseconds cut off would show as 57.924999999.
    wait_us = round(min(seconds, MAX_WAIT_S) * 1e6)
    return Duration(seconds=wait_us // 1_000_000, nanos=wait_us % 1_000_000 * 1000)


def _number(code: grpc.StatusCode) -> int:
    return int(code.value[0])
