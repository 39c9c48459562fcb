"""Converts error responses and error objects of any vendor to provider errors.

A message contains only the status and known codes, because a provider's own text may quote the prompt or the key.
"""

from __future__ import annotations

import email.utils
import math
import time
from collections.abc import Mapping

from parley_server.errors import (
    Failure,
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

    failure = Failure.CREDIT
    retryable = False


class ModelUnknown(ProviderRejected):
    """The provider has no such model, or not for this account."""

    failure = Failure.NO_MODEL


class KeptItemsRefused(ProviderRejected):
    """The provider refuses wire items of an earlier answer, such as a signature that does not fit anymore."""

    failure = Failure.KEPT_ITEMS


_CODES_OF: dict[type[ProviderError], tuple[str, ...]] = {
    ProviderContextTooLarge: ("context_length_exceeded", "exceed_context_size_error"),
    KeptItemsRefused: ("invalid_encrypted_content",),
    Filtered: (
        "content_filter",
        "content_policy_violation",
        "data_inspection_failed",
        "datainspectionfailed",
        "responsibleaipolicyviolation",
    ),
    OutOfCredit: ("billing_error", "billing_hard_limit_reached", "insufficient_balance", "insufficient_quota"),
    ProviderRateLimited: ("rate_limit_error", "rate_limit_exceeded", "requests", "resource_exhausted", "tokens"),
    ProviderUnauthenticated: (
        "api_key_invalid",
        "authentication_error",
        "invalid_api_key",
        "permission_denied",
        "permission_error",
        "unauthenticated",
    ),
    ModelUnknown: ("deploymentnotfound", "model_not_found", "not_found", "not_found_error"),
    ProviderUnavailable: (
        "api_error",
        "deadline_exceeded",
        "internal",
        "overloaded",
        "overloaded_error",
        "server_error",
        "service_unavailable",
        "timeout_error",
        "unavailable",
    ),
    ProviderRejected: (
        "bad_request",
        "failed_precondition",
        "invalid_argument",
        "invalid_prompt",
        "invalid_request_error",
        "request_too_large",
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
    KeptItemsRefused: frozenset({400}),
    Filtered: frozenset({400, 403, 422, 451}),
    OutOfCredit: frozenset({400, 402, 403, 429}),
    ProviderUnauthenticated: frozenset({400}),
    ModelUnknown: frozenset({400, 403}),
}
"""The statuses for which a code of this class is more specific than the status."""


def error_of_status(provider: str, status: int, *, headers: Mapping[str, str], body: bytes) -> ProviderError:
    """The error of a response with an HTTP status other than 200, with the wait that its headers request."""
    report = report_of(body)
    code = _known_code(report)
    message = f"{provider} answered HTTP {status}" + (f" ({code})" if code else "")
    metadata = {"http_status": str(status)} | ({"provider_code": code} if code else {})
    error = _class_of_refusal(status, report)(message, metadata=metadata)
    _add_numbers(error, report)
    wait_s = retry_after_s(headers)
    error.retry_after_s = error.retry_after_s if wait_s is None else wait_s
    error.retry_forbidden = headers.get("x-should-retry", "").strip().lower() == "false"
    return error


def error_in_body(provider: str, error: object) -> ProviderError:
    """The error of an error object in a response with HTTP 200."""
    report = report_of(error)
    code = _known_code(report)
    kind = _class_of_report(report, report.status or 400) or (KNOWN_CODES[code] if code else None)
    if kind is None:
        kind = _class_of_status(report.status) if report.status else ProviderUnavailable
    named = code or (str(report.status) if report.status else "")
    message = f"{provider} reported an error within its answer" + (f" ({named})" if named else "")
    failure = kind(message, metadata={"provider_code": code} if code else {})
    _add_numbers(failure, report)
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


def _add_numbers(error: ProviderError, report: ErrorReport) -> None:
    error.retry_after_s = None if report.wait_s is None else min(report.wait_s, MAX_RETRY_AFTER_S)
    if isinstance(error, ProviderContextTooLarge):
        error.limit_tokens, error.prompt_tokens = report.limit_tokens, report.prompt_tokens
        if report.limit_tokens:
            error.metadata["limit"] = f"{report.limit_tokens} tokens"


def _class_of_refusal(status: int, report: ErrorReport) -> type[ProviderError]:
    kinds = [_class_of_report(report, status), *[KNOWN_CODES.get(code) for code in report.codes]]
    # Servers and proxies often choose the status badly, so a specific code overrides a general status, but only one of
    # those with which vendors are known to send it.
    telling = [kind for kind in kinds if kind is not None and status in _BEFORE_STATUS.get(kind, ())]
    if telling:
        return telling[0]
    if status == 403 and (report.region or _REGION in report.codes):
        return ProviderRejected
    return _class_of_status(status)


def _class_of_report(report: ErrorReport, status: int) -> type[ProviderError] | None:
    """The class that the message of an error implies; it may be more specific than the codes."""
    if report.overflow:
        return ProviderContextTooLarge
    if report.moderated:
        return Filtered
    if report.kept and status == 400:
        return KeptItemsRefused
    return OutOfCredit if report.credit else None


def _class_of_status(status: int) -> type[ProviderError]:
    if status in {401, 403}:
        return ProviderUnauthenticated
    if status == 402:
        return OutOfCredit
    if status == 404:
        return ModelUnknown
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
