"""Every way in which a call or a reply can fail. This module imports nothing of Parley.

ParleyError
├── InvalidRequest            the request is wrong; `violations` say where
│   └── InputTooLarge, UnsupportedInput, ContextTooLarge
├── Unauthenticated, Forbidden
├── NotFound                  conversation, message, reply, model, provider or image
├── RequestIdReused, ConversationExists
├── ReplyInProgress, EtagMismatch
├── TooManyReaders, NotConfigured, NotImplementedYet
├── Draining, Overloaded, StorageUnavailable     a retry with the same request_id is right
├── ProviderError             the reply failed after it was accepted
├── OwnerLost
└── InternalError             a defect

Adapters raise these where they call their driver. One place (`rpc.status`) turns them into a gRPC status.
"""

from __future__ import annotations

import enum
from typing import ClassVar


class Reason(enum.StrEnum):
    """`parley.v1.ErrorReason` without its prefix; the names are equal."""

    INVALID_REQUEST = "INVALID_REQUEST"
    UNSUPPORTED_INPUT = "UNSUPPORTED_INPUT"
    CONTEXT_TOO_LARGE = "CONTEXT_TOO_LARGE"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    FORBIDDEN = "FORBIDDEN"
    CONVERSATION_NOT_FOUND = "CONVERSATION_NOT_FOUND"
    MESSAGE_NOT_FOUND = "MESSAGE_NOT_FOUND"
    REPLY_NOT_FOUND = "REPLY_NOT_FOUND"
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    PROVIDER_NOT_FOUND = "PROVIDER_NOT_FOUND"
    IMAGE_NOT_FOUND = "IMAGE_NOT_FOUND"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    CONVERSATION_EXISTS = "CONVERSATION_EXISTS"
    REPLY_IN_PROGRESS = "REPLY_IN_PROGRESS"
    ETAG_MISMATCH = "ETAG_MISMATCH"
    INPUT_TOO_LARGE = "INPUT_TOO_LARGE"
    RATE_LIMITED = "RATE_LIMITED"
    QUOTA_EXCEEDED = "QUOTA_EXCEEDED"
    TOO_MANY_READERS = "TOO_MANY_READERS"
    NOT_CONFIGURED = "NOT_CONFIGURED"
    DRAINING = "DRAINING"
    OVERLOADED = "OVERLOADED"
    STORAGE_UNAVAILABLE = "STORAGE_UNAVAILABLE"
    PROVIDER_UNAVAILABLE = "PROVIDER_UNAVAILABLE"
    PROVIDER_RATE_LIMITED = "PROVIDER_RATE_LIMITED"
    PROVIDER_TIMEOUT = "PROVIDER_TIMEOUT"
    PROVIDER_REJECTED = "PROVIDER_REJECTED"
    PROVIDER_UNAUTHENTICATED = "PROVIDER_UNAUTHENTICATED"
    PROVIDER_MALFORMED = "PROVIDER_MALFORMED"
    PROVIDER_TRUNCATED = "PROVIDER_TRUNCATED"
    OWNER_LOST = "OWNER_LOST"
    INTERNAL = "INTERNAL"
    PROVIDER_CONTEXT_TOO_LARGE = "PROVIDER_CONTEXT_TOO_LARGE"


class ParleyError(Exception):
    """A failure with a reason. `message` is safe to show: never a key, a prompt, an answer or a provider's raw body."""

    reason: ClassVar[Reason] = Reason.INTERNAL
    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        metadata: dict[str, str] | None = None,
        violations: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        self.metadata = metadata or {}
        self.violations = violations


class InvalidRequest(ParleyError):
    """The request breaks the contract; each violation is (field path, what is wrong with it)."""

    reason = Reason.INVALID_REQUEST

    @classmethod
    def field(cls, path: str, problem: str) -> InvalidRequest:
        """An error about one field of the request."""
        return cls(f"{path}: {problem}", violations=((path, problem),))


class InputTooLarge(InvalidRequest):
    """Something in the request is over its limit; metadata `limit` names the limit."""

    reason = Reason.INPUT_TOO_LARGE


class UnsupportedInput(InvalidRequest):
    """The model cannot take this input."""

    reason = Reason.UNSUPPORTED_INPUT


class ContextTooLarge(InvalidRequest):
    """The input alone is larger than the model's context."""

    reason = Reason.CONTEXT_TOO_LARGE


class Unauthenticated(ParleyError):
    """The credential is missing or wrong."""

    reason = Reason.UNAUTHENTICATED


class Forbidden(ParleyError):
    """The credential does not allow this call."""

    reason = Reason.FORBIDDEN


class ConversationNotFound(ParleyError):
    """No such conversation, or somebody else's."""

    reason = Reason.CONVERSATION_NOT_FOUND

    def __init__(self, message: str = "conversation not found") -> None:
        super().__init__(message)


class MessageNotFound(ParleyError):
    """No such message in the conversation."""

    reason = Reason.MESSAGE_NOT_FOUND

    def __init__(self, message: str = "message not found") -> None:
        super().__init__(message)


class ReplyNotFound(ParleyError):
    """No such reply, somebody else's, or erased."""

    reason = Reason.REPLY_NOT_FOUND

    def __init__(self, message: str = "reply not found") -> None:
        super().__init__(message)


class ModelNotFound(ParleyError):
    """The catalog has no model of this alias."""

    reason = Reason.MODEL_NOT_FOUND


class ProviderNotFound(ParleyError):
    """The configuration has no provider of this name."""

    reason = Reason.PROVIDER_NOT_FOUND


class ImageNotFound(ParleyError):
    """No such image in the caller's conversations."""

    reason = Reason.IMAGE_NOT_FOUND

    def __init__(self, message: str = "image not found") -> None:
        super().__init__(message)


class RequestIdReused(ParleyError):
    """The idempotency key came before, with another payload."""

    reason = Reason.REQUEST_ID_REUSED


class ConversationExists(ParleyError):
    """The chosen conversation id is taken within the tenant."""

    reason = Reason.CONVERSATION_EXISTS


class ReplyInProgress(ParleyError):
    """Another reply runs in the conversation; metadata `reply_id` names it."""

    reason = Reason.REPLY_IN_PROGRESS
    retryable = True


class EtagMismatch(ParleyError):
    """The resource has changed since it was read."""

    reason = Reason.ETAG_MISMATCH


class TooManyReaders(ParleyError):
    """The reply has as many readers as it may have."""

    reason = Reason.TOO_MANY_READERS
    retryable = True


class NotConfigured(ParleyError):
    """The server lacks what the call needs."""

    reason = Reason.NOT_CONFIGURED


class Draining(ParleyError):
    """The server is shutting down."""

    reason = Reason.DRAINING
    retryable = True


class Overloaded(ParleyError):
    """The server takes no more replies for now."""

    reason = Reason.OVERLOADED
    retryable = True


class StorageUnavailable(ParleyError):
    """The database is down. With `outcome_unknown`, a commit may or may not have happened."""

    reason = Reason.STORAGE_UNAVAILABLE
    retryable = True

    def __init__(self, message: str = "the database is unavailable", *, outcome_unknown: bool = False) -> None:
        super().__init__(message, retry_after_s=1.0)
        self.outcome_unknown = outcome_unknown


class ProviderError(ParleyError):
    """The provider failed the reply. `billed` says whether it may have charged for work nonetheless."""

    billed: bool = False


class ProviderUnavailable(ProviderError):
    """The provider refused the connection, broke it, or answered 5xx."""

    reason = Reason.PROVIDER_UNAVAILABLE
    retryable = True


class ProviderRateLimited(ProviderError):
    """The provider answered 429."""

    reason = Reason.PROVIDER_RATE_LIMITED
    retryable = True


class ProviderTimeout(ProviderError):
    """No first token, or no next token, in time."""

    reason = Reason.PROVIDER_TIMEOUT
    retryable = True
    billed = True


class ProviderRejected(ProviderError):
    """The provider refused the request itself."""

    reason = Reason.PROVIDER_REJECTED


class ProviderContextTooLarge(ProviderError):
    """The provider refused the prompt because it is longer than the context of its model."""

    reason = Reason.PROVIDER_CONTEXT_TOO_LARGE


class ProviderUnauthenticated(ProviderError):
    """The provider's key is missing or wrong."""

    reason = Reason.PROVIDER_UNAUTHENTICATED


class ProviderMalformed(ProviderError):
    """The provider's stream made no sense."""

    reason = Reason.PROVIDER_MALFORMED
    retryable = True
    billed = True


class ProviderTruncated(ProviderError):
    """The provider's stream ended before it said that it was done."""

    reason = Reason.PROVIDER_TRUNCATED
    retryable = True
    billed = True


class OwnerLost(ParleyError):
    """The replica that generated the reply died or was stopped."""

    reason = Reason.OWNER_LOST
    retryable = True


class InternalError(ParleyError):
    """A defect of the engine; metadata `call_id` finds it in the logs."""

    reason = Reason.INTERNAL
