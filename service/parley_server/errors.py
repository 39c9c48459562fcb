"""All errors of calls and replies. This module imports no other module of Parley.

ParleyError
├── InvalidRequest            the request is invalid; `violations` name the fields
│   └── InputTooLarge, UnsupportedInput, ContextTooLarge
├── Unauthenticated, Forbidden
├── NotFound                  conversation, message, reply, model, provider or image
├── RequestIdReused, ConversationExists
├── ReplyInProgress, EtagMismatch
├── RateLimited, QuotaExceeded    `violations` are (subject, description)
├── TooManyReaders, NotConfigured
├── Draining, Overloaded, StorageUnavailable, IdentityUnavailable     retry with the same request_id
├── ProviderError             the reply failed after it was accepted
├── OwnerLost
└── InternalError             a defect of the server

Adapters convert the errors of their drivers to these. Only `rpc.status` converts them to a gRPC status.
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
    IDENTITY_UNAVAILABLE = "IDENTITY_UNAVAILABLE"
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
    """A failure with a reason. `message` is shown to callers: it never contains a key, a prompt, an answer or a
    provider's raw body."""

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
    """The request violates the contract. Each violation is (field path, problem)."""

    reason = Reason.INVALID_REQUEST

    @classmethod
    def field(cls, path: str, problem: str) -> InvalidRequest:
        """An error about one field of the request."""
        return cls(f"{path}: {problem}", violations=((path, problem),))


class InputTooLarge(InvalidRequest):
    """Part of the request exceeds its limit, which metadata `limit` names."""

    reason = Reason.INPUT_TOO_LARGE


class UnsupportedInput(InvalidRequest):
    """The model does not support this input."""

    reason = Reason.UNSUPPORTED_INPUT


class ContextTooLarge(InvalidRequest):
    """The input alone exceeds the context of the model."""

    reason = Reason.CONTEXT_TOO_LARGE


class Unauthenticated(ParleyError):
    """The credential is missing or not valid. `cause` is for log lines and metrics; all causes have the same text, so
    that a caller learns nothing about the credentials of others."""

    reason = Reason.UNAUTHENTICATED

    def __init__(self, cause: str) -> None:
        super().__init__("the credential is missing or not valid")
        self.cause = cause


class Forbidden(ParleyError):
    """The credential does not allow this call."""

    reason = Reason.FORBIDDEN


class ConversationNotFound(ParleyError):
    """The conversation does not exist, or the caller may not see it."""

    reason = Reason.CONVERSATION_NOT_FOUND

    def __init__(self, message: str = "conversation not found") -> None:
        super().__init__(message)


class MessageNotFound(ParleyError):
    """The conversation has no such message."""

    reason = Reason.MESSAGE_NOT_FOUND

    def __init__(self, message: str = "message not found") -> None:
        super().__init__(message)


class ReplyNotFound(ParleyError):
    """The reply does not exist, was erased, or the caller may not see it."""

    reason = Reason.REPLY_NOT_FOUND

    def __init__(self, message: str = "reply not found") -> None:
        super().__init__(message)


class ModelNotFound(ParleyError):
    """The catalog has no model of this alias, or the caller may not name it."""

    reason = Reason.MODEL_NOT_FOUND

    def __init__(self, alias: str) -> None:
        super().__init__("there is no model of this name", metadata={"model": alias[:128]})


class ProviderNotFound(ParleyError):
    """The configuration has no provider of this name."""

    reason = Reason.PROVIDER_NOT_FOUND


class ImageNotFound(ParleyError):
    """The caller's conversations have no such image."""

    reason = Reason.IMAGE_NOT_FOUND

    def __init__(self, message: str = "image not found") -> None:
        super().__init__(message)


class RequestIdReused(ParleyError):
    """The idempotency key was used before with another payload."""

    reason = Reason.REQUEST_ID_REUSED


class ConversationExists(ParleyError):
    """The tenant already has a conversation with the chosen id."""

    reason = Reason.CONVERSATION_EXISTS


class ReplyInProgress(ParleyError):
    """Another reply is running in the conversation; metadata `reply_id` names it."""

    reason = Reason.REPLY_IN_PROGRESS
    retryable = True


class EtagMismatch(ParleyError):
    """The resource has changed since the caller read it."""

    reason = Reason.ETAG_MISMATCH


class RateLimited(ParleyError):
    """The end user has sent, or the tenant runs, as many as a limit allows; metadata `limit` names it. The violation is
    (subject, description)."""

    reason = Reason.RATE_LIMITED
    retryable = True


class QuotaExceeded(ParleyError):
    """The reply needs more than is left of a quota. Each violation is (subject, description); metadata names the limit,
    its use, and the time at which it is reset. It is not retryable, because that may be a month away."""

    reason = Reason.QUOTA_EXCEEDED


class TooManyReaders(ParleyError):
    """The reply has reached its limit of readers."""

    reason = Reason.TOO_MANY_READERS
    retryable = True


class NotConfigured(ParleyError):
    """The server lacks the configuration that the call needs."""

    reason = Reason.NOT_CONFIGURED


class Draining(ParleyError):
    """The server is shutting down."""

    reason = Reason.DRAINING
    retryable = True


class Overloaded(ParleyError):
    """The server accepts no more replies at present."""

    reason = Reason.OVERLOADED
    retryable = True


class StorageUnavailable(ParleyError):
    """The database is unavailable. `outcome_unknown`: a commit may have succeeded or not."""

    reason = Reason.STORAGE_UNAVAILABLE
    retryable = True

    def __init__(self, message: str = "the database is unavailable", *, outcome_unknown: bool = False) -> None:
        super().__init__(message, retry_after_s=1.0)
        self.outcome_unknown = outcome_unknown


class LimitsUnavailable(StorageUnavailable):
    """Messages cannot be counted, because Redis is unavailable. The database may be available."""

    def __init__(self) -> None:
        super().__init__("messages cannot be counted at present: retry")


class IdentityUnavailable(ParleyError):
    """The keys that verify tokens are not available, so that valid tokens cannot be distinguished from invalid ones."""

    reason = Reason.IDENTITY_UNAVAILABLE
    retryable = True

    def __init__(self) -> None:
        super().__init__("tokens cannot be verified at present: retry", retry_after_s=1.0)


class Failure(enum.StrEnum):
    """Why a provider failed, as far as it decides what may be tried next: the same model again, or the next one."""

    UNAVAILABLE = "unavailable"
    """No connection, a server error, or an overloaded server."""
    RATE = "rate"
    """Too many requests: possible again after `retry_after_s`."""
    CREDIT = "credit"
    """No credit, or a quota of a whole day is used up."""
    SILENCE = "silence"
    """A token did not arrive in time."""
    NONSENSE = "nonsense"
    """An answer that is not readable or not complete."""
    KEY = "key"
    """The key is missing, invalid or not allowed to do this."""
    NO_MODEL = "no_model"
    """The provider has no such model."""
    REJECTED = "rejected"
    """The request itself is at fault."""
    TOO_LONG = "too_long"
    """The prompt exceeds the model's context."""
    KEPT_ITEMS = "kept_items"
    """The provider refuses wire items that it has sent before: the prompt without them may succeed."""


class ProviderError(ParleyError):
    """The provider failed the reply. `billed`: it may still charge for the reply. `retry_forbidden`: its answer says
    not to send the request again."""

    failure: Failure = Failure.UNAVAILABLE
    billed: bool = False
    retry_forbidden: bool = False


class ProviderUnavailable(ProviderError):
    """The provider refused or broke the connection, or answered with a server error."""

    reason = Reason.PROVIDER_UNAVAILABLE
    retryable = True


class ProviderRateLimited(ProviderError):
    """The provider answered 429."""

    reason = Reason.PROVIDER_RATE_LIMITED
    failure = Failure.RATE
    retryable = True


class ProviderTimeout(ProviderError):
    """The first or the next token did not arrive in time."""

    reason = Reason.PROVIDER_TIMEOUT
    failure = Failure.SILENCE
    retryable = True
    billed = True


class ProviderRejected(ProviderError):
    """The provider refused the request as invalid."""

    reason = Reason.PROVIDER_REJECTED
    failure = Failure.REJECTED


class ProviderContextTooLarge(ProviderError):
    """The prompt exceeds the context of the provider's model. `limit_tokens` and `prompt_tokens`: the model's limit and
    the size of the prompt, as far as the provider states them."""

    reason = Reason.PROVIDER_CONTEXT_TOO_LARGE
    failure = Failure.TOO_LONG
    limit_tokens: int | None = None
    prompt_tokens: int | None = None


class ProviderUnauthenticated(ProviderError):
    """The key for the provider is missing or invalid."""

    reason = Reason.PROVIDER_UNAUTHENTICATED
    failure = Failure.KEY


class ProviderMalformed(ProviderError):
    """The provider's stream was malformed."""

    reason = Reason.PROVIDER_MALFORMED
    failure = Failure.NONSENSE
    retryable = True
    billed = True


class ProviderTruncated(ProviderError):
    """The provider's stream ended before the answer was complete."""

    reason = Reason.PROVIDER_TRUNCATED
    failure = Failure.NONSENSE
    retryable = True
    billed = True


class OwnerLost(ParleyError):
    """The replica that generated the reply died or was stopped."""

    reason = Reason.OWNER_LOST
    retryable = True


class InternalError(ParleyError):
    """A defect of the server; metadata `call_id` identifies its log lines."""

    reason = Reason.INTERNAL
