"""Extracts an error from a provider's response of any form: its codes, its status, its numbers, and the subject of its
message.

The message itself never leaves this module, because it may quote the prompt or the key.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from parley_server.errors import ProviderMalformed
from parley_server.providers.http.sse import EventSplitter
from parley_server.providers.reading.events import count
from parley_server.providers.reading.json_values import json_of

MAX_WORDS = 8192
"""Limit of characters of a provider's messages that are searched."""

_OVERFLOW = re.compile(
    r"(?i)context_length_exceeded|exceed_context_size_error|maximum context length|maximum prompt length"
    r"|prompt is too long|input is too long|too long to fit into the model|exceeds the maximum number of tokens"
    r"|exceeds? the (available |model'?s? )?context (size|window|length)|exceeds the context window"
    r"|exceeded model token limit|reduce the length of the messages|range of input length should be"
    r"|`inputs` (must have less than|tokens \+)|input length .{0,60} exceed"
)
_REGION = re.compile(
    r"(?i)(country|region|territory|location).{0,40}\b(not|un) ?(supported|available|allowed)"
    r"|not (available|supported|allowed) in (your|this) (country|region|territory|location)"
)
_MODERATED = re.compile(r"(?i)content exists risk|\bDataInspectionFailed\b|ResponsibleAIPolicyViolation")
_KEPT = re.compile(
    r"(?i)invalid_encrypted_content|signature.{0,80}(thinking|thought)|(thinking|thought).{0,80}signature"
)
_CREDIT = re.compile(r"(?i)credit balance is too low|insufficient (balance|credits?|funds)")
_DAILY = re.compile(r"(?i)per_?day")
_WAIT = re.compile(r"(\d{1,6}(?:\.\d{1,9})?)s")
_LIMITS = (
    re.compile(
        r"(?i)(?:> |maximum (?:context|prompt) length (?:is|of) |tokens allowed \(|must have less than |limit of "
        r"|context size \(|context (?:window|length) of )(\d[\d,]*)"
    ),
)
_SIZES = (
    re.compile(r"(?i)(\d[\d,]*) (?:in the messages|input tokens)"),
    re.compile(r"(?i)(?:too long: |requested |contains |token count \(|given: |resulted in |request \()(\d[\d,]*)"),
)
"""In order of preference: some messages also state the sum of the prompt and the requested output."""
_CODE_FIELDS = ("code", "type", "status", "error_code", "err_code", "status_code")
_WORD_FIELDS = ("message", "msg", "error_msg", "status_msg", "detail", "title")


class ErrorReport(msgspec.Struct, frozen=True):
    """An error: its codes in lower case, its status from 400 to 599 (0: none), and the subject of its message.

    overflow: the prompt is too long; `limit_tokens` and `prompt_tokens` are the model's limit and the prompt's size, as
    far as it states them. kept: it refuses wire items of an earlier answer. credit: there is no
    credit, or a quota of a whole day is used up. wait_s: the seconds after which a retry may succeed."""

    codes: tuple[str, ...] = ()
    status: int = 0
    overflow: bool = False
    region: bool = False
    moderated: bool = False
    kept: bool = False
    credit: bool = False
    wait_s: float | None = None
    limit_tokens: int | None = None
    prompt_tokens: int | None = None


def report_of(error: object) -> ErrorReport:
    """Read an error: the bytes of a body (JSON, server-sent events, text), or decoded JSON of any form."""
    if isinstance(error, bytes):
        error = _parsed(error)
    places = list(_places(error))
    details = list(_details(places))
    values = [place.get(field) for place in places for field in _CODE_FIELDS]
    values += [detail.get("reason") for detail in details]
    codes = [str(value).lower() for value in values if isinstance(value, str | int) and not isinstance(value, bool)]
    statuses = [int(code) for code in codes if code.isascii() and code.isdecimal() and len(code) == 3]
    words = "\n".join(_words(error, places))[:MAX_WORDS]
    return ErrorReport(
        codes=tuple(codes),
        status=next((status for status in statuses if 400 <= status < 600), 0),
        overflow=bool(_OVERFLOW.search(words)),
        region=bool(_REGION.search(words)),
        moderated=bool(_MODERATED.search(words)) or any(_flagged(place.get("metadata")) for place in places),
        kept=bool(_KEPT.search(words)),
        credit=bool(_CREDIT.search(words)) or any(_DAILY.search(quota) for quota in _quotas(details)),
        wait_s=_wait_s(details),
        limit_tokens=_number(_LIMITS, words, [place.get("n_ctx") for place in places]),
        prompt_tokens=_number(_SIZES, words, [place.get("n_prompt_tokens") for place in places]),
    )


def is_error(value: object) -> bool:
    """Whether the value of a field `error` is an error. Some servers send an empty one with every chunk."""
    if isinstance(value, list):
        return any(is_error(item) for item in value)
    if isinstance(value, dict):
        return any(value.get(field) for field in (*_CODE_FIELDS, *_WORD_FIELDS, "error"))
    return bool(value)


def stands_for_error(value: object) -> bool:
    """Whether an event without choices is an error without a field `error`."""
    if not isinstance(value, dict):
        return False
    base = value.get("base_resp")
    if isinstance(base, dict) and base.get("status_code"):
        return True
    if value.get("object") == "error" or value.get("type") == "error" or value.get("detail"):
        return True
    return isinstance(value.get("message"), str) and bool(value.get("code") or value.get("status"))


def _parsed(body: bytes) -> Any:
    if (value := json_of(body)) is not None:
        return value
    splitter = EventSplitter()
    try:
        events = [*splitter.feed(body), *splitter.end()]
    except ProviderMalformed:
        events = []
    values = [value for event in events if (value := json_of(event)) is not None]
    return values[0] if values else body.decode("utf-8", "replace")


def _places(value: object, depth: int = 0) -> Iterator[dict[str, Any]]:
    """The objects that may hold codes: the error, and those around and inside it."""
    if depth > 4:
        return
    if isinstance(value, list):
        for item in value[:4]:
            yield from _places(item, depth + 1)
    elif isinstance(value, dict):
        yield value
        for field in ("error", "innererror", "base_resp", "detail"):
            yield from _places(value.get(field), depth + 1)


def _details(places: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The details that Google adds to an error."""
    for place in places:
        details = place.get("details")
        for detail in details[:16] if isinstance(details, list) else ():
            if isinstance(detail, dict):
                yield detail


def _quotas(details: list[dict[str, Any]]) -> Iterator[str]:
    for detail in details:
        violations = detail.get("violations")
        for violation in violations[:16] if isinstance(violations, list) else ():
            if isinstance(violation, dict):
                yield str(violation.get("quotaId"))


def _wait_s(details: list[dict[str, Any]]) -> float | None:
    delays = [_WAIT.fullmatch(str(detail.get("retryDelay"))) for detail in details]
    return max((float(delay[1]) for delay in delays if delay), default=None)


def _number(patterns: tuple[re.Pattern[str], ...], words: str, fields: list[object]) -> int | None:
    """The positive count in one of the fields, else in the words."""
    found = [match[1].replace(",", "") for pattern in patterns if (match := pattern.search(words))]
    return next((number for value in [*fields, *found] if (number := count(value))), None)


def _words(error: object, places: list[dict[str, Any]]) -> Iterator[str]:
    if isinstance(error, str):
        yield error
    for place in places:
        for field in (*_WORD_FIELDS, *_CODE_FIELDS, "error"):
            if isinstance(place.get(field), str):
                yield place[field]
        metadata = place.get("metadata")
        if isinstance(metadata, dict) and isinstance(metadata.get("raw"), str):
            yield metadata["raw"]  # OpenRouter forwards the message of its provider


def _flagged(metadata: object) -> bool:
    """Whether OpenRouter's moderation refused the prompt."""
    return isinstance(metadata, dict) and bool(metadata.get("reasons") or metadata.get("flagged_input"))
