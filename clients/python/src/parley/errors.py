"""Every way in which a call or a reply can fail.

ParleyError                     reason, code, message, retryable, retry_after_s, metadata
├── InvalidRequest              the request is wrong: fix it
│   └── UnsupportedInput, ContextTooLarge, InputTooLarge
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

from collections.abc import Mapping
from typing import Final

import grpc

from parley.v1 import resources_pb2


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


class UnsupportedInput(InvalidRequest):
    """The model cannot take this input, such as an image."""


class ContextTooLarge(InvalidRequest):
    """The input alone is larger than the model's context."""


class InputTooLarge(InvalidRequest):
    """An image, a message or a label is over its limit; metadata `limit` says which."""


class Unauthenticated(ParleyError):
    """The credential is missing or wrong."""


class Forbidden(ParleyError):
    """The credential does not allow this call. What belongs to somebody else is NOT_FOUND instead."""


class NotFound(ParleyError):
    """No such thing, or somebody else's."""


class ConversationNotFound(NotFound):
    """No such conversation, or somebody else's."""


class MessageNotFound(NotFound):
    """No such message in the conversation."""


class ReplyNotFound(NotFound):
    """No such reply, or somebody else's."""


class ModelNotFound(NotFound):
    """The catalog has no model of this alias."""


class ProviderNotFound(NotFound):
    """The server knows no such provider."""


class ImageNotFound(NotFound):
    """No such image, or somebody else's."""


class AlreadyExists(ParleyError):
    """The key or id is taken."""


class RequestIdReused(AlreadyExists):
    """The `request_id` came before, with another payload."""


class ConversationExists(AlreadyExists):
    """The chosen conversation id is taken."""


class ReplyInProgress(ParleyError):
    """Another reply runs in the conversation; metadata `reply_id` says which."""

    @property
    def reply_id(self) -> str:
        """The reply that runs; empty where the server did not say."""
        return self.metadata.get("reply_id", "")


class EtagMismatch(ParleyError):
    """The resource has changed since its etag was read."""


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
    """The database is down, or Redis where the call cannot do without it."""


class ConnectionLost(Unavailable):
    """A reply could no longer be followed; it may still be running. To resume it after `sequence` goes on where `text`
    ends.
    """

    reply_id: str = ""
    """The reply, to resume."""

    sequence: int = 0
    """The cursor, to resume after."""

    text: str = ""
    """The answer as far as it was read."""


class DeadlineExceeded(ParleyError):
    """The call took longer than its time limit."""


class ReplyFailed(ParleyError):
    """The reply was accepted and then failed. Where `retryable`, a new request with `replace_message_id` set to
    `message_id` and no text tries again without repeating the user's message.
    """

    text: str = ""
    """What it had written."""

    reply_id: str = ""
    """The reply."""

    message_id: str = ""
    """The message that would have held the answer."""

    usage: resources_pb2.Usage | None = None
    """What the provider had counted, or an estimate."""


class InternalError(ParleyError):
    """A defect of the engine; metadata `call_id` finds it in the logs."""


BY_REASON: Final[Mapping[str, type[ParleyError]]] = {
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
    "PROVIDER_CONTEXT_TOO_LARGE": ReplyFailed,
    "INTERNAL": InternalError,
}

BY_CODE: Final[Mapping[grpc.StatusCode, type[ParleyError]]] = {
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
