"""Checks names and texts in the fields of callers. Every error names the field and its limit."""

from __future__ import annotations

import hashlib
import re

import msgspec

from parley_server.core.events import utf8_size
from parley_server.core.limits import Limits
from parley_server.errors import InputTooLarge, InvalidRequest

MAX_KEY = 128
MAX_MODEL = 128
MAX_PROVIDER = 128
MAX_LABELS = 16
MAX_LABEL = 64
MAX_TITLE = 1024
MAX_CANCEL_REASON = 1024
MAX_QUERY = 256
MAX_ETAG = 64
MAX_TOOL_CALL_ID = 256
MAX_MIME_TYPE = 64

TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def check_name(path: str, value: str, most: int) -> None:
    """Raises `InputTooLarge` above `most` characters, and `InvalidRequest` for control characters, which could change
    the meaning of a log line or of a terminal's output that shows the name."""
    if len(value) > most:
        raise too_large(path, f"{most} characters")
    if _CONTROL.search(value):
        raise InvalidRequest.field(path, "must not contain control characters")


def shortened_call_id(call_id: str) -> str:
    """A provider's id of a tool call, replaced by one that callers may send back if it breaks the limits of ids."""
    if len(call_id) <= MAX_TOOL_CALL_ID and not _CONTROL.search(call_id):
        return call_id
    return f"call_{hashlib.sha256(call_id.encode(errors='replace')).hexdigest()[:32]}"


def check_key(path: str, value: str) -> None:
    """Checks an idempotency key or the id of an end user."""
    check_name(path, value, MAX_KEY)


def check_labels(path: str, labels: dict[str, str]) -> None:
    """Checks labels: their number, lengths and characters."""
    if len(labels) > MAX_LABELS:
        raise too_large(path, f"{MAX_LABELS} labels")
    for key, value in labels.items():
        if not key:
            raise InvalidRequest.field(path, "a label's key must not be empty")
        if len(key) > MAX_LABEL or len(value) > MAX_LABEL:
            raise too_large(path, f"{MAX_LABEL} characters on each side of a label")
        check_name(path, key + value, 2 * MAX_LABEL)


def check_texts(path: str, texts: tuple[str, ...], limits: Limits) -> None:
    """Checks the total size of texts, and that none contains NUL, which PostgreSQL cannot store."""
    if sum(utf8_size(text) for text in texts) > limits.max_input_text_bytes:
        raise too_large(path, f"{limits.max_input_text_bytes} bytes of text")
    if any("\x00" in text for text in texts):
        raise InvalidRequest.field(path, "must not contain a NUL character")


def check_json(path: str, text: str) -> None:
    """Raises `InvalidRequest` if the text is neither empty nor valid JSON."""
    if not text:
        return
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidRequest.field(path, "is not valid JSON") from error


def too_large(path: str, limit: str) -> InputTooLarge:
    """The error about a field above its limit, which is a number with its unit."""
    problem = f"is over the limit of {limit}"
    return InputTooLarge(f"{path}: {problem}", metadata={"limit": limit}, violations=((path, problem),))
