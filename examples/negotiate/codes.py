"""The error codes of this API, with a sentence for each that says nothing about the inside of the system."""

from __future__ import annotations

from typing import Any, Final

from parley.asgi import TextReplaced
from parley.errors import AlreadyExists, InvalidRequest, NotFound, ParleyError, ReplyInProgress

_SENTENCES: Final = {
    "RATE_LIMIT": "Too many messages at the moment. Wait a little, then try again.",
    "AUTH": "The assistant has no access to its model. Please tell the operators.",
    "STREAM_TIMEOUT": "The model has not answered in time. Please try again.",
    "QUOTA": "The quota for answers is used up.",
    "LLM_ERROR": "The model could not answer. Please try again.",
}
_CODES: Final = {
    "RATE_LIMITED": "RATE_LIMIT",
    "PROVIDER_RATE_LIMITED": "RATE_LIMIT",
    "UNAUTHENTICATED": "AUTH",
    "FORBIDDEN": "AUTH",
    "PROVIDER_UNAUTHENTICATED": "AUTH",
    "PROVIDER_TIMEOUT": "STREAM_TIMEOUT",
    "QUOTA_EXCEEDED": "QUOTA",
}
# Parley's own reason and message say more about these.
_SPECIFIC: Final = (InvalidRequest, NotFound, AlreadyExists, ReplyInProgress, TextReplaced)


def error_json(error: ParleyError) -> dict[str, Any]:
    """Returns the fields that say what went wrong, as in `parley.asgi.refusal` but with this API's codes."""
    code = _code(error)
    sentence = _SENTENCES.get(code, error.message)
    return {"message": sentence, "error": sentence, "code": code, "retryable": error.retryable}


def _code(error: ParleyError) -> str:
    if isinstance(error, _SPECIFIC):
        return error.reason
    if error.reason == "PROVIDER_RATE_LIMITED" and not error.retryable:
        return "QUOTA"  # the account at the provider has no credit
    return _CODES.get(error.reason, "LLM_ERROR")
