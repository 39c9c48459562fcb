"""Converts error responses of an OpenAI-dialect provider to provider errors.

A message contains only the status and known codes, because a provider's own text may quote the prompt or the key.
"""

from __future__ import annotations

import email.utils
import math
import time
from collections.abc import Mapping

from parley_server.errors import (
    ProviderContextTooLarge,
    ProviderError,
    ProviderRateLimited,
    ProviderRejected,
    ProviderUnauthenticated,
    ProviderUnavailable,
)
from parley_server.providers.reading.error_report import ErrorReport, report_of

MAX_RETRY_AFTER_S = 24 * 3600.0


class Filtered(ProviderRejected):
    """A content filter refused the prompt. Before the first token, this finishes the answer as CONTENT_FILTER."""


class OutOfCredit(ProviderRateLimited):
    """The account has no credit, or has used up its quota, so that a retry cannot succeed soon."""

    retryable = False


_CODES_OF: dict[type[ProviderError], tuple[str, ...]] = {
    ProviderContextTooLarge: ("context_length_exceeded", "exceed_context_size_error"),
    Filtered: (
        "content_filter",
        "content_policy_violation",
        "data_inspection_failed",
        "datainspectionfailed",
        "responsibleaipolicyviolation",
    ),
    OutOfCredit: ("billing_error", "billing_hard_limit_reached", "insufficient_balance", "insufficient_quota"),
    ProviderRateLimited: ("rate_limit_error", "rate_limit_exceeded", "requests", "resource_exhausted", "tokens"),
    ProviderUnauthenticated: ("api_key_invalid", "authentication_error", "invalid_api_key", "permission_error"),
    ProviderUnavailable: ("overloaded", "overloaded_error", "server_error", "service_unavailable"),
    ProviderRejected: (
        "bad_request",
        "deploymentnotfound",
        "invalid_argument",
        "invalid_prompt",
        "invalid_request_error",
        "model_not_found",
        "not_found_error",
        "string_above_max_length",
        "unsupported_country_region_territory",
        "unsupported_parameter",
        "unsupported_value",
    ),
}
KNOWN_CODES = {code: kind for kind, codes in _CODES_OF.items() for code in codes}
_REGION = "unsupported_country_region_territory"
_BEFORE_STATUS: dict[type[ProviderError], frozenset[int]] = {
    ProviderContextTooLarge: frozenset({400, 413, 422, 500}),
    Filtered: frozenset({400, 403, 422, 451}),
    OutOfCredit: frozenset({400, 402, 403, 429}),
    ProviderUnauthenticated: frozenset({400}),
}
"""The statuses for which a code of this class is more specific than the status."""


def error_of_status(provider: str, status: int, *, headers: Mapping[str, str], body: bytes) -> ProviderError:
    """The error of a response with an HTTP status other than 200, with the wait that its headers request."""
    report = report_of(body)
    code = _known_code(report)
    message = f"{provider} answered HTTP {status}" + (f" ({code})" if code else "")
    metadata = {"http_status": str(status)} | ({"provider_code": code} if code else {})
    kind = _class_of_refusal(status, report)
    return kind(message, retry_after_s=retry_after_s(headers), metadata=metadata)


def error_in_body(provider: str, error: object) -> ProviderError:
    """The error of an error object in a response with HTTP 200."""
    report = report_of(error)
    code = _known_code(report)
    kind = _class_of_report(report) or (KNOWN_CODES[code] if code else None)
    if kind is None:
        kind = _class_of_status(report.status) if report.status else ProviderUnavailable
    named = code or (str(report.status) if report.status else "")
    message = f"{provider} reported an error within its answer" + (f" ({named})" if named else "")
    failure = kind(message, metadata={"provider_code": code} if code else {})
    failure.billed = True  # the provider had begun to answer
    return failure


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The seconds that `retry-after-ms` or `Retry-After` (seconds or an HTTP date) request; None without a valid
    one."""
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


def _class_of_refusal(status: int, report: ErrorReport) -> type[ProviderError]:
    kinds = [_class_of_report(report), *[KNOWN_CODES.get(code) for code in report.codes]]
    # Servers and proxies often choose the status badly, so a specific code overrides a general status, but only one of
    # those with which vendors are known to send it.
    telling = [kind for kind in kinds if kind is not None and status in _BEFORE_STATUS.get(kind, ())]
    if telling:
        return telling[0]
    if status == 403 and (report.region or _REGION in report.codes):
        return ProviderRejected
    return _class_of_status(status)


def _class_of_report(report: ErrorReport) -> type[ProviderError] | None:
    """The class that the message of an error implies; it may be more specific than the codes."""
    if report.overflow:
        return ProviderContextTooLarge
    return Filtered if report.moderated else None


def _class_of_status(status: int) -> type[ProviderError]:
    if status in {401, 403}:
        return ProviderUnauthenticated
    if status == 402:
        return OutOfCredit
    if status == 429:
        return ProviderRateLimited
    # 408 Request Timeout, 409 Conflict and 425 Too Early are temporary, unlike the other statuses below 500.
    if status in {408, 409, 425} or status >= 500:
        return ProviderUnavailable
    return ProviderRejected


def _known_code(report: ErrorReport) -> str:
    """The code to show: the most specific one, in the order of `KNOWN_CODES`."""
    known = [code for code in report.codes if code in KNOWN_CODES]
    return min(known, key=_ORDER.index) if known else ""


_ORDER = list(KNOWN_CODES)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
