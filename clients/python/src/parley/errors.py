"""Every way in which a call or a reply can fail.

ParleyError                     reason, code, message, retryable, retry_after_s, metadata
├── InvalidRequest              the request is wrong: fix it
│   └── InputTooLarge, UnsupportedInput, ContextTooLarge
├── Unauthenticated, Forbidden
├── NotFound
│   └── ConversationNotFound, MessageNotFound, ReplyNotFound, ModelNotFound, ProviderNotFound, ImageNotFound
├── AlreadyExists
│   └── RequestIdReused, ConversationExists
├── ReplyInProgress             `reply_id` is the one that runs
├── EtagMismatch                read again, then change
├── LimitExceeded               wait `retry_after_s`
│   └── RateLimited, QuotaExceeded, TooManyReaders
├── NotConfigured               the server lacks what the call needs
├── Unavailable                 no answer from a server, though the client tried again
│   ├── Draining, Overloaded, StorageUnavailable
│   └── ConnectionLost          the reply was accepted, then could not be followed: resume it later
├── DeadlineExceeded            the call's own time limit
├── ReplyFailed                 the reply was accepted, then failed: `text` is what it had written
└── InternalError               a defect of the server; metadata `call_id` finds it in its logs
"""

from __future__ import annotations

from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from parley.v1 import errors_pb2, resources_pb2

ERROR_TRAILER: Final = "parley-error-bin"


class ParleyError(Exception):
    """A failure with a reason.

    `reason` is the name of a `parley.v1.ErrorReason` without its prefix, or empty where the transport failed and no
    Parley server spoke. `message` is safe to show. `retryable` says whether a new attempt may succeed.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        retryable: bool = False,
        retry_after_s: float | None = None,
        metadata: dict[str, str] | None = None,
    ) -> None:
        super().__init__(f"{reason}: {message}" if reason else message)
        self.message = message
        self.reason = reason
        self.code = code
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.metadata = metadata or {}


class InvalidRequest(ParleyError):
    """The request breaks the contract."""


class InputTooLarge(InvalidRequest):
    """Something in the request is over its limit; metadata `limit` names the limit."""


class UnsupportedInput(InvalidRequest):
    """The model cannot take this input, such as an image."""


class ContextTooLarge(InvalidRequest):
    """The input alone is larger than the model's context."""


class Unauthenticated(ParleyError):
    """The credential is missing or wrong."""


class Forbidden(ParleyError):
    """The credential does not allow this call."""


class NotFound(ParleyError):
    """No such thing, or somebody else's."""


class ConversationNotFound(NotFound):
    """No such conversation."""


class MessageNotFound(NotFound):
    """No such message in the conversation."""


class ReplyNotFound(NotFound):
    """No such reply."""


class ModelNotFound(NotFound):
    """The catalog has no model of this alias."""


class ProviderNotFound(NotFound):
    """The server knows no such provider."""


class ImageNotFound(NotFound):
    """No such image."""


class AlreadyExists(ParleyError):
    """The key or id is taken."""


class RequestIdReused(AlreadyExists):
    """The request_id came before, with another payload."""


class ConversationExists(AlreadyExists):
    """The chosen conversation id is taken."""


class ReplyInProgress(ParleyError):
    """Another reply runs in the conversation."""

    @property
    def reply_id(self) -> str:
        """The reply that runs, to resume or to cancel; empty where the server did not say."""
        return self.metadata.get("reply_id", "")


class EtagMismatch(ParleyError):
    """The resource has changed since it was read."""


class LimitExceeded(ParleyError):
    """A limit of the caller is reached."""


class RateLimited(LimitExceeded):
    """Too many messages for now."""


class QuotaExceeded(LimitExceeded):
    """The quota of the period is used up."""


class TooManyReaders(LimitExceeded):
    """The reply has as many readers as it may have."""


class NotConfigured(ParleyError):
    """The server lacks what the call needs, such as an encryption key."""


class Unavailable(ParleyError):
    """No server could be reached, or it took no calls, for as long as the client's backoff allowed."""


class Draining(Unavailable):
    """The server is shutting down."""


class Overloaded(Unavailable):
    """The server takes no more replies for now."""


class StorageUnavailable(Unavailable):
    """The server's database is down."""


class ConnectionLost(Unavailable):
    """A reply could no longer be followed; it may still be running.

    `client.resume(error.reply_id, after_sequence=error.sequence)` goes on where `text` ends.
    """

    def __init__(self, cause: ParleyError, *, reply_id: str, sequence: int, text: str) -> None:
        super().__init__(cause.message, reason=cause.reason, code=cause.code, retryable=True)
        self.reply_id = reply_id
        self.sequence = sequence
        self.text = text


class DeadlineExceeded(ParleyError):
    """The call took longer than its time limit."""


class InternalError(ParleyError):
    """A defect of the server."""


class ReplyFailed(ParleyError):
    """The reply was accepted and then failed.

    Where `retryable`, a new request with `replace_message_id=error.message_id` and no text tries again without
    repeating the user's message.
    """

    text: str = ""
    reply_id: str = ""
    message_id: str = ""
    usage: resources_pb2.Usage | None = None


_BY_REASON: Final[dict[str, type[ParleyError]]] = {
    "INVALID_REQUEST": InvalidRequest,
    "UNSUPPORTED_INPUT": UnsupportedInput,
    "CONTEXT_TOO_LARGE": ContextTooLarge,
    "INPUT_TOO_LARGE": InputTooLarge,
    "UNAUTHENTICATED": Unauthenticated,
    "FORBIDDEN": Forbidden,
    "CONVERSATION_NOT_FOUND": ConversationNotFound,
    "MESSAGE_NOT_FOUND": MessageNotFound,
    "REPLY_NOT_FOUND": ReplyNotFound,
    "MODEL_NOT_FOUND": ModelNotFound,
    "PROVIDER_NOT_FOUND": ProviderNotFound,
    "IMAGE_NOT_FOUND": ImageNotFound,
    "REQUEST_ID_REUSED": RequestIdReused,
    "CONVERSATION_EXISTS": ConversationExists,
    "REPLY_IN_PROGRESS": ReplyInProgress,
    "ETAG_MISMATCH": EtagMismatch,
    "RATE_LIMITED": RateLimited,
    "QUOTA_EXCEEDED": QuotaExceeded,
    "TOO_MANY_READERS": TooManyReaders,
    "NOT_CONFIGURED": NotConfigured,
    "DRAINING": Draining,
    "OVERLOADED": Overloaded,
    "STORAGE_UNAVAILABLE": StorageUnavailable,
    "PROVIDER_UNAVAILABLE": ReplyFailed,
    "PROVIDER_RATE_LIMITED": ReplyFailed,
    "PROVIDER_TIMEOUT": ReplyFailed,
    "PROVIDER_REJECTED": ReplyFailed,
    "PROVIDER_UNAUTHENTICATED": ReplyFailed,
    "PROVIDER_MALFORMED": ReplyFailed,
    "PROVIDER_TRUNCATED": ReplyFailed,
    "OWNER_LOST": ReplyFailed,
    "INTERNAL": InternalError,
}

_BY_CODE: Final[dict[grpc.StatusCode, type[ParleyError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: Forbidden,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.RESOURCE_EXHAUSTED: LimitExceeded,
    grpc.StatusCode.FAILED_PRECONDITION: NotConfigured,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.INTERNAL: InternalError,
}

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
_RETRYABLE_CODES: Final = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}


def reason_name(reason: int) -> str:
    """The name of an `ErrorReason` without its prefix; `UNKNOWN_<n>` for a value newer than this client, "" for 0."""
    if reason == 0:
        return ""
    if reason not in errors_pb2.ErrorReason.values():
        return f"UNKNOWN_{reason}"
    return errors_pb2.ErrorReason.Name(errors_pb2.ErrorReason.ValueType(reason)).removeprefix("ERROR_REASON_")


def error_of_status(status: grpc.aio.AioRpcError) -> ParleyError:
    """The typed error of a call that ended with a status other than OK."""
    proto = _trailer(status)
    if proto is not None:
        return error_of_proto(proto)
    code = status.code()
    kind = _BY_CODE.get(code, ParleyError)
    return kind(status.details() or code.name, code=code, retryable=code in _RETRYABLE_CODES)


def error_of_proto(proto: errors_pb2.ReplyError) -> ParleyError:
    """The typed error that a `ReplyError` stands for; a reason that is not known is read by its code."""
    reason = reason_name(proto.reason)
    code = _CODES.get(proto.code, grpc.StatusCode.UNKNOWN)
    kind = _BY_REASON.get(reason) or _BY_CODE.get(code, ParleyError)
    return kind(proto.message, **_fields(proto, reason=reason, code=code))


def reply_failed(proto: errors_pb2.ReplyError) -> ReplyFailed:
    """The error of a `failed` chunk, whatever its reason; the caller adds the partial text."""
    reason = reason_name(proto.reason)
    return ReplyFailed(
        proto.message, **_fields(proto, reason=reason, code=_CODES.get(proto.code, grpc.StatusCode.ABORTED))
    )


def is_cut(error: ParleyError) -> bool:
    """Whether the call, and not what was asked for, has failed: the same call may be made again."""
    if error.code is grpc.StatusCode.UNAVAILABLE:
        return True
    return not error.reason and error.code in _CUT_CODES


def ends_reply(error: ParleyError) -> bool:
    """Whether a status says what a lost terminal chunk would have said."""
    return bool(error.reason) and isinstance(error, ReplyFailed | InternalError)


# What proxies, a stopping server and RST_STREAM are seen to produce, beside UNAVAILABLE.
_CUT_CODES: Final = {grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}


def _trailer(status: grpc.aio.AioRpcError) -> errors_pb2.ReplyError | None:
    value = dict(status.trailing_metadata() or ()).get(ERROR_TRAILER)
    if not isinstance(value, bytes):
        return None
    try:
        return errors_pb2.ReplyError.FromString(value)
    except DecodeError:
        return None


def _fields(proto: errors_pb2.ReplyError, *, reason: str, code: grpc.StatusCode) -> dict[str, Any]:
    wait_s = proto.retry_after.seconds + proto.retry_after.nanos / 1e9
    return {
        "reason": reason,
        "code": code,
        "retryable": proto.retryable,
        "retry_after_s": wait_s if proto.HasField("retry_after") else None,
        "metadata": dict(proto.metadata),
    }
