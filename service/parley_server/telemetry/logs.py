"""Log lines on standard error, as JSON or text. They never contain a prompt, an answer or a key.

The message of a line is a fixed event name to search for. Variable values go to `extra={"fields": {...}}`, so that
adapters need only `logging`: `logger.warning("provider_retried", extra={"fields": {"attempt": 2}})`.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Mapping
from typing import Any, Literal, TextIO

import msgspec

from parley_server.core.model import Reply, State
from parley_server.core.observer import CallEnded
from parley_server.core.tracing import current_span
from parley_server.errors import Reason

# Libraries whose debug lines contain the data that they send and receive.
_VERBOSE = ("httpx2", "httpcore2", "sqlalchemy", "alembic", "asyncio", "grpc", "opentelemetry")
# Its end is kept, which has the exception itself and the innermost frames.
_EXCEPTION_CHARACTERS = 16_384
_SECRETS = re.compile(r"(?i)\b(?:(?:sk|xai)-[\w-]{6,}|AIza[\w-]{6,}|gAAAA[\w-]{20,}=*|bearer\s+[\w.~+/=-]+)")
# SQLAlchemy and pydantic quote values in their errors.
_QUOTED_VALUES = re.compile(r"(?s)\[parameters: .*?\](?=\n|$)|input_value=.*?(?=, input_type=)")
# A message of another form is a library's free text, which may contain data.
_EVENT = re.compile(r"[a-z][a-z0-9_]{0,63}")

_calls = logging.getLogger("parley.call")
_audit = logging.getLogger("parley.audit")
_replies = logging.getLogger("parley.reply")
_encode = msgspec.json.Encoder(enc_hook=str).encode


def configure_logging(
    level: str, log_format: Literal["json", "text"], stream: TextIO | None = None, *, worker: int | None = None
) -> None:
    """Write the lines of all loggers to `stream` (default: standard error) in this format, and remove former handlers.

    With `worker`, each line contains the number of the worker."""
    handler = logging.StreamHandler(stream or sys.stderr)
    fields = {} if worker is None else {"worker": worker}
    handler.setFormatter(JsonFormatter(fields) if log_format == "json" else TextFormatter(fields))
    root = logging.getLogger()
    for former in root.handlers[:]:
        root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in _VERBOSE:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    _audit.setLevel(logging.INFO)  # whatever the level of other loggers
    # No line shows these values, and each costs a system call or a lookup.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.captureWarnings(capture=True)


def log_call(call: CallEnded) -> None:
    """Log one line for a finished call. Empty fields are left out."""
    # Only defects of the server are errors. A call with any other status was refused or left as it should be.
    level = logging.ERROR if call.code in ("INTERNAL", "UNKNOWN") else logging.INFO
    if not _calls.isEnabledFor(level):
        return
    fields: dict[str, Any] = {
        "method": call.method,
        "code": call.code,
        "duration_ms": round(call.duration_s * 1000, 3),
        "reason": call.reason,
        "tenant": call.tenant,
        "end_user": call.end_user,
        "credential": call.credential,
        "cause": call.cause,
        "call_id": call.call_id,
        "reply_id": call.reply_id,
        "traceparent": call.traceparent,
    }
    _calls.log(level, "call", extra={"fields": {name: value for name, value in fields.items() if value != ""}})


def log_audit(method: str, outcome: str, **fields: object) -> None:
    """Log what an administrator has done or tried: the RPC or the command, its status, who, and on what."""
    shown = {name: value for name, value in fields.items() if value != ""}
    _audit.info("audit", extra={"fields": {"method": method, "outcome": outcome, **shown}})


def log_admin_call(call: CallEnded) -> None:
    """Log the audit line of a finished call of Admin."""
    log_audit(
        call.method,
        call.reason or call.code,
        credential=call.credential,
        tenant=call.tenant,
        cause=call.cause,
        target_provider=call.target_provider,
        target_tenant=call.target_tenant,
        call_id=call.call_id,
    )


def log_reply(reply: Reply, *, overhead_s: float, text_length: int) -> None:
    """Log one line for a reply that has ended: caller, model, state, reason, durations and usage."""
    level = _level_of(reply)
    if not _replies.isEnabledFor(level):
        return
    usage = reply.usage
    _replies.log(
        level,
        "reply",
        extra={
            "fields": {
                "reply_id": reply.id,
                "conversation_id": reply.conversation_id,
                "tenant": reply.tenant,
                "end_user": reply.end_user,
                "state": reply.state.value,
                "reason": end_reason(reply),
                "model": reply.model or reply.requested_model,
                "provider": reply.provider,
                "duration_ms": _elapsed_ms(reply, reply.end_time_us),
                "first_token_ms": _elapsed_ms(reply, reply.first_token_time_us),
                "overhead_ms": round(overhead_s * 1000, 3),
                "text_length": text_length,
                "prompt_tokens": usage.prompt_tokens if usage else 0,
                "completion_tokens": usage.completion_tokens if usage else 0,
                "usage_estimated": usage.estimated if usage else True,
            }
        },
    )


def end_reason(reply: Reply) -> str:
    """The reason of the reply's error, or else its finish reason."""
    if reply.error is not None:
        return reply.error.shown_reason.value
    return reply.finish_reason.value if reply.finish_reason is not None else "OTHER"


def _level_of(reply: Reply) -> int:
    if reply.error is not None and reply.error.reason is Reason.INTERNAL:
        return logging.ERROR
    return logging.WARNING if reply.state is State.FAILED else logging.INFO


def _elapsed_ms(reply: Reply, time_us: int) -> float | None:
    return round((time_us - reply.create_time_us) / 1000, 3) if time_us else None


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, event, the record's fields, `exception` as one string, and `fields`."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        super().__init__()
        self._fields = fields

    def format(self, record: logging.LogRecord) -> str:
        """Format the record as one line."""
        return _encode({**_values_of(record), **self._fields}).decode()


class TextFormatter(logging.Formatter):
    """The same values for a terminal: time, level, event, then `field=value`, then the exception on further lines."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        super().__init__()
        self._fields = fields

    def format(self, record: logging.LogRecord) -> str:
        """Format the record as one line, and its exception as further lines."""
        values = {**_values_of(record), **self._fields}
        head = f"{values.pop('time')} {values.pop('level'):<7} {values.pop('event')}"
        exception = values.pop("exception", None)
        fields = [f"{name}={_word(value)}" for name, value in values.items() if value is not None and value != ""]
        return " ".join([head, *fields]) + (f"\n{exception}" if exception else "")


def event_of(record: logging.LogRecord) -> str:
    """The event of a line: a fixed word, or "log" for the free text of a library."""
    message = record.getMessage()
    return message if hasattr(record, "fields") or _EVENT.fullmatch(message) else "log"


def _values_of(record: logging.LogRecord) -> dict[str, Any]:
    fields = getattr(record, "fields", None)
    message = record.getMessage()
    values: dict[str, Any] = {"time": _rfc3339(record.created), "level": record.levelname.lower()}
    if fields is not None:
        values["event"] = message
        # A field must not replace the event, which is what operators search for.
        values.update({name: value for name, value in fields.items() if name not in ("time", "level", "event")})
    elif _EVENT.fullmatch(message):
        values["event"] = message
        values["logger"] = record.name
    else:
        values.update(event="log", logger=record.name, message=redact(message))
    span = current_span.get()
    if not span.ended and (trace_id := span.trace_id):  # a background task may outlive the operation that started it
        values["trace_id"], values["span_id"] = trace_id, span.span_id
    if record.exc_info:
        values["exception"] = redact(_FORMATTER.formatException(record.exc_info))[-_EXCEPTION_CHARACTERS:]
    return values


def redact(text: str) -> str:
    """The text without anything that looks like a key, and without the values that libraries quote in their errors."""
    return _SECRETS.sub("[redacted]", _QUOTED_VALUES.sub("[values left out]", text))


def _rfc3339(seconds: float) -> str:
    """The time in UTC with milliseconds."""
    whole, milliseconds = divmod(int(seconds * 1000), 1000)
    return f"{_second(whole)}.{milliseconds:03d}Z"


def _second(whole: int) -> str:
    """The text of a second. The last one is cached, because most lines share it."""
    global _last_second
    if _last_second[0] != whole:
        _last_second = (whole, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)))
    return _last_second[1]


def _word(value: Any) -> str:
    text = str(value)
    return text if text.isprintable() and " " not in text and '"' not in text else msgspec.json.encode(text).decode()


_FORMATTER = logging.Formatter()
_last_second = (0, "1970-01-01T00:00:00")
