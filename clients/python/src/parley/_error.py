"""What all errors of the client have in common."""

from __future__ import annotations

import grpc


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
