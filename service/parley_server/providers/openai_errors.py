"""Turns refusals and failures of an OpenAI-dialect provider into provider errors.

It must never pass on a provider's own words, which may quote the prompt or the key: only status codes and known codes.
"""

from __future__ import annotations

import email.utils
import math
import time
from collections.abc import Mapping
from typing import Any

from parley_server.errors import (
    ProviderError,
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnauthenticated,
    ProviderUnavailable,
)

KNOWN_CODES: dict[str, type[ProviderError]] = {
    "authentication_error": ProviderUnauthenticated,
    "bad_request": ProviderRejected,
    "content_policy_violation": ProviderRejected,
    "context_length_exceeded": ProviderRejected,
    "insufficient_quota": ProviderRateLimited,
    "invalid_api_key": ProviderUnauthenticated,
    "invalid_argument": ProviderRejected,
    "invalid_prompt": ProviderRejected,
    "invalid_request_error": ProviderRejected,
    "model_not_found": ProviderRejected,
    "not_found_error": ProviderRejected,
    "overloaded_error": ProviderUnavailable,
    "permission_error": ProviderUnauthenticated,
    "rate_limit_error": ProviderRateLimited,
    "rate_limit_exceeded": ProviderRateLimited,
    "requests": ProviderRateLimited,
    "resource_exhausted": ProviderRateLimited,
    "server_error": ProviderUnavailable,
    "string_above_max_length": ProviderRejected,
    "tokens": ProviderRateLimited,
    "unsupported_parameter": ProviderRejected,
    "unsupported_value": ProviderRejected,
}
MAX_RETRY_AFTER_S = 24 * 3600.0


def error_of_status(provider: str, status: int, *, headers: Mapping[str, str], body: object) -> ProviderError:
    """The error that an HTTP status other than 200 stands for, with the wait that its headers ask for."""
    code = _known_code(_error_object(body))
    message = f"{provider} answered HTTP {status}" + (f" ({code})" if code else "")
    metadata = {"http_status": str(status)} | ({"provider_code": code} if code else {})
    return _class_of_status(status)(message, retry_after_s=retry_after_s(headers), metadata=metadata)


def error_in_body(provider: str, error: object) -> ProviderError:
    """The error that an error object stands for which came under HTTP 200."""
    code = _known_code(error)
    status = _status_in(error)
    kind = KNOWN_CODES[code] if code else _class_of_status(status) if status else ProviderUnavailable
    named = code or (str(status) if status else "")
    message = f"{provider} reported an error within its answer" + (f" ({named})" if named else "")
    failure = kind(message, metadata={"provider_code": code} if code else {})
    failure.billed = True
    return failure


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The wait that `retry-after-ms` or `Retry-After` (seconds or an HTTP date) asks for; None where none does."""
    for text, scale in ((headers.get("retry-after-ms"), 0.001), (headers.get("retry-after"), 1.0)):
        wait_s = _number(text)
        if wait_s is not None:
            return min(max(wait_s * scale, 0.0), MAX_RETRY_AFTER_S)
    date = email.utils.parsedate_tz(headers.get("retry-after", ""))
    if date is None:
        return None
    try:
        at_s = email.utils.mktime_tz(date)
    except (OverflowError, ValueError):
        return None
    return min(max(at_s - time.time(), 0.0), MAX_RETRY_AFTER_S)


def _class_of_status(status: int) -> type[ProviderError]:
    if status in {401, 403}:
        return ProviderUnauthenticated
    if status == 429:
        return ProviderRateLimited
    if status == 408 or status >= 500:
        return ProviderUnavailable
    return ProviderRejected


def _error_object(body: object) -> object:
    return body.get("error", body) if isinstance(body, dict) else body


def _known_code(error: object) -> str:
    if not isinstance(error, dict):
        return ""
    words = [str(error.get(key, "")).lower() for key in ("code", "type", "status")]
    return next((word for word in words if word in KNOWN_CODES), "")


def _status_in(error: object) -> int:
    values: list[Any] = [error.get(key) for key in ("code", "status")] if isinstance(error, dict) else []
    statuses = [int(value) for value in values if str(value).isdecimal() and len(str(value)) == 3]
    return next((status for status in statuses if 400 <= status < 600), 0)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
