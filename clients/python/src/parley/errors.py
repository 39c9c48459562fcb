"""The errors of the client, one class per kind of failure.

ParleyError                     reason, code, message, retryable, retry_after_s, metadata
├── InvalidRequest              the request is wrong; correct it before sending it again
│   └── UnsupportedInput, ContextTooLarge, InputTooLarge
├── Unauthenticated, Forbidden
├── CredentialFailed            the application's function for the credential failed; nothing was sent
├── NotFound
│   └── ConversationNotFound, MessageNotFound, ReplyNotFound, ModelNotFound, ProviderNotFound, ImageNotFound
├── AlreadyExists
│   └── RequestIdReused, ConversationExists
├── ReplyInProgress             `reply_id` is the running reply
├── EtagMismatch                read the resource again, then update it
├── LimitExceeded               `limit` is reached; `retry_after_s` is the wait
│   └── RateLimited, QuotaExceeded, TooManyReaders
├── NotConfigured               the server lacks a setting that the call needs
├── Unavailable                 no answer from a server after all retries
│   ├── Draining, Overloaded, StorageUnavailable, IdentityUnavailable
│   └── ConnectionLost          the stream of an accepted reply was lost; resume it later
├── DeadlineExceeded            the call's time limit has passed
├── ReplyFailed                 the reply was accepted, then failed; `text` is its partial text
└── InternalError               a defect of the server; metadata `call_id` is in its log lines
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final

import grpc

from parley.v1 import resources_pb2


class ParleyError(Exception):
    """Base class of all errors of the client.

    `reason` is the name of a `parley.v1.ErrorReason` without its prefix; it is empty if the error came from the
    transport and not from a Parley server. `message` can be shown to users. `retryable` is True if a new attempt may
    succeed, after `retry_after_s` seconds if that is set. `metadata` has details such as `limit` or `call_id`.
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
    """The new input itself is larger than the model's context."""


class InputTooLarge(InvalidRequest):
    """An image, a message or a label is over its limit; metadata `limit` names the limit."""


class Unauthenticated(ParleyError):
    """The credential is missing or wrong."""


class Forbidden(ParleyError):
    """The credential does not allow this call. Resources of other users are NOT_FOUND instead."""


class CredentialFailed(ParleyError):
    """The function for the credential raised an error, took too long, or returned no credential; nothing was sent.

    `__cause__` is the function's own error.
    """


class NotFound(ParleyError):
    """No such resource, or it belongs to another user."""


class ConversationNotFound(NotFound):
    """No such conversation, or it belongs to another user."""


class MessageNotFound(NotFound):
    """No such message in the conversation."""


class ReplyNotFound(NotFound):
    """No such reply, or it belongs to another user."""


class ModelNotFound(NotFound):
    """The catalog has no model of this alias."""


class ProviderNotFound(NotFound):
    """The server has no such provider."""


class ImageNotFound(NotFound):
    """No such image, or it belongs to another user."""


class AlreadyExists(ParleyError):
    """The key or id is already in use."""


class RequestIdReused(AlreadyExists):
    """The `request_id` was used before with another payload."""


class ConversationExists(AlreadyExists):
    """The chosen conversation id is already in use."""


class ReplyInProgress(ParleyError):
    """Another reply runs in the conversation; metadata `reply_id` has its id."""

    @property
    def reply_id(self) -> str:
        """The id of the running reply; empty if the server did not send it."""
        return self.metadata.get("reply_id", "")


class EtagMismatch(ParleyError):
    """The resource has changed since its etag was read."""


class LimitExceeded(ParleyError):
    """The caller has reached a limit. `retry_after_s` is the wait until there is room, if the server sent it.

    The numbers count what the limit counts: messages, replies, tokens, or billionths of a US dollar. Each property is
    None or empty if the server did not send it.
    """

    @property
    def limit(self) -> str:
        """The name of the limit, such as "messages_per_minute" or "tenant_tokens_per_day"."""
        return self.metadata.get("limit", "")

    @property
    def used(self) -> int | None:
        """How much of the limit is used."""
        return self._number("used")

    @property
    def max(self) -> int | None:
        """The limit itself."""
        return self._number("max")

    @property
    def needed(self) -> int | None:
        """How much more the request needs."""
        return self._number("needed")

    @property
    def subject(self) -> str:
        """Whose limit it is: "end_user" or "tenant"."""
        return self.metadata.get("subject", "")

    @property
    def reset_time(self) -> datetime | None:
        """When the period of the quota ends, in UTC."""
        try:
            return datetime.fromisoformat(self.metadata["reset_time"])
        except (KeyError, ValueError):
            return None

    def _number(self, name: str) -> int | None:
        try:
            return int(self.metadata[name])
        except (KeyError, ValueError):
            return None


class RateLimited(LimitExceeded):
    """Too many messages in a minute, or too many replies at once. The client waits only within its backoff."""


class QuotaExceeded(LimitExceeded):
    """The quota of the period is used up. The client does not wait, since the end of the period may be a month away."""


class TooManyReaders(LimitExceeded):
    """The reply has reached its limit of readers."""


class NotConfigured(ParleyError):
    """The server lacks a setting that the call needs, such as an encryption key."""


class Unavailable(ParleyError):
    """No server could be reached, or none accepted the call, until the client's backoff expired."""


class Draining(Unavailable):
    """The server is shutting down."""


class Overloaded(Unavailable):
    """The server is at its limit of running replies, or too busy."""


class StorageUnavailable(Unavailable):
    """The database is unavailable, or Redis is and the call needs it."""


class IdentityUnavailable(Unavailable):
    """The server cannot read the keys that verify tokens, so that it has not checked the caller's token."""


class ConnectionLost(Unavailable):
    """The client could not reconnect to the stream of an accepted reply, which may still be running.

    `client.resume(reply_id, after_sequence=sequence)` continues where `text` ends.
    """

    reply_id: str = ""

    sequence: int = 0
    """The cursor: the sequence of the last chunk that was read."""

    text: str = ""
    """The text that was read."""


class DeadlineExceeded(ParleyError):
    """The call took longer than its time limit."""


class ReplyFailed(ParleyError):
    """The reply was accepted and then failed.

    If `retryable`, a new request without text and with `replace_message_id` set to `message_id` generates the answer
    again without repeating the user's message.
    """

    text: str = ""
    """The partial text."""

    reply_id: str = ""

    message_id: str = ""
    """The message for the answer."""

    usage: resources_pb2.Usage | None = None
    """The usage that the provider reported, or an estimate."""

    model: str = ""
    """The alias that was asked last; after a failover, not the requested one."""

    provider: str = ""
    """The provider that was asked last."""


class InternalError(ParleyError):
    """A defect of the server; metadata `call_id` is in its log lines."""


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
    "IDENTITY_UNAVAILABLE": IdentityUnavailable,
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
