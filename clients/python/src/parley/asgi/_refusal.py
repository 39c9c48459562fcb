"""Converts errors to HTTP: a status, headers and `{"message", "error", "code", "retryable"}`.

No answer contains a stack trace, a path, or the address of the Parley server.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from http.client import responses
from typing import Any, Final, TypeVar

import grpc
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from parley.errors import CredentialFailed, Forbidden, ParleyError, ReplyFailed, Unauthenticated

_log = logging.getLogger("parley.asgi")

_STATUSES: Final = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
}
_TOO_LARGE: Final = {"INPUT_TOO_LARGE", "CONTEXT_TOO_LARGE"}
_FAMILIES: Final = {
    400: ("BAD_REQUEST", "The request is not valid."),
    401: ("UNAUTHENTICATED", "Sign in first."),
    403: ("FORBIDDEN", "This is not allowed."),
    404: ("NOT_FOUND", "There is nothing at this address."),
    405: ("METHOD_NOT_ALLOWED", "This address does not take this method."),
    409: ("CONFLICT", "The request conflicts with the current state."),
    413: ("TOO_LARGE", "The request is too large."),
    415: ("UNSUPPORTED_MEDIA_TYPE", "The request has the wrong content type."),
    429: ("TOO_MANY_REQUESTS", "Too many requests. Try again later."),
    500: ("INTERNAL", "Something went wrong on the server."),
    502: ("BAD_GATEWAY", "The assistant is not available at the moment."),
    503: ("UNAVAILABLE", "The assistant cannot be reached at the moment. Try again later."),
}

Kind = TypeVar("Kind", bound=ParleyError)
Handler = Callable[[Request, Any], Coroutine[Any, Any, Response]]


@dataclass(frozen=True)
class Refusal:
    """An HTTP answer that reports an error."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)

    def response(self) -> JSONResponse:
        """Returns it as a Starlette response."""
        return JSONResponse(self.body, self.status, headers=self.headers)


def refusal(error: ParleyError, *, browser_credential: bool = False) -> Refusal:
    """Returns the HTTP answer for an error of the client.

    If Parley refuses the credential, the answer is 502 with a neutral sentence, since the browser cannot correct the
    backend's credential; with `browser_credential`, the credential came from the browser, and the answer is 401 or 403.
    """
    if isinstance(error, Unauthenticated | Forbidden | CredentialFailed) and not browser_credential:
        _log.error("Parley refused the credential of this backend: %s", error)
        return fault(502)
    shown = presentable(error)
    status = _status(error)
    code = error.reason or family(status)[0]
    return Refusal(status, error_body(shown.message, code, retryable=error.retryable), _headers(status, error))


def fault(status: int, message: str = "", headers: Mapping[str, str] | None = None) -> Refusal:
    """Returns the answer for a fault that is not an error of Parley; without a message, a sentence for the status."""
    code, sentence = family(status)
    body = error_body(message or sentence, code, retryable=status in {429, 503})
    return Refusal(status, body, dict(headers or {}))


def error_body(message: str, code: str, *, retryable: bool) -> dict[str, Any]:
    """Returns the JSON of every refusal. `error` repeats the message, since some products read that name."""
    return {"message": message, "error": message, "code": code, "retryable": retryable}


def family(status: int) -> tuple[str, str]:
    """Returns the code and the sentence of an HTTP status."""
    return _FAMILIES.get(status) or _FAMILIES[400 if status < 500 else 502]


def presentable(error: Kind) -> Kind:
    """Returns the error with a message that may be shown to users.

    The messages of the transport name addresses; those of Parley servers, which have a reason, do not.
    """
    if error.reason:
        return error
    shown = copy.copy(error)
    shown.message = family(503 if error.code is grpc.StatusCode.UNAVAILABLE else 502)[1]
    return shown


def exception_handlers(*, browser_credential: bool = False) -> dict[Any, Handler]:
    """Returns handlers for `FastAPI(exception_handlers=...)` or `Starlette(exception_handlers=...)`.

    They answer errors of Parley, of the framework and of the application with the JSON of `refusal`.
    """

    async def refused(_request: Request, error: ParleyError) -> Response:
        if not error.reason:
            _log.warning("the call to Parley failed: %s", error)
        return refusal(error, browser_credential=browser_credential).response()

    async def failed(_request: Request, error: HTTPException) -> Response:
        is_default = error.detail == responses.get(error.status_code, "")
        answer = fault(error.status_code, "" if is_default else str(error.detail), error.headers)
        return answer.response()

    async def no_unicode(_request: Request, _error: UnicodeEncodeError) -> Response:
        # JSON can escape half of a surrogate pair, which protobuf refuses.
        return fault(400, "The text is not valid Unicode.").response()

    async def crashed(_request: Request, _error: Exception) -> Response:
        return fault(500).response()

    return {
        ParleyError: refused,
        HTTPException: failed,
        UnicodeEncodeError: no_unicode,
        Exception: crashed,
        **_validation_handlers(),
    }


def _validation_handlers() -> dict[Any, Handler]:
    try:
        from fastapi.exceptions import RequestValidationError
    except ImportError:
        return {}

    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        # Positions in malformed JSON are numbers; only the names of fields help.
        path = ".".join(each for each in first["loc"][1:] if isinstance(each, str))
        return fault(400, f"{path}: {first['msg']}" if path else str(first["msg"])).response()

    return {RequestValidationError: invalid}


def _status(error: ParleyError) -> int:
    if isinstance(error, ReplyFailed):
        return 502  # its code is ABORTED, as that of conflicts
    return 413 if error.reason in _TOO_LARGE else _STATUSES.get(error.code, 502)


def _headers(status: int, error: ParleyError) -> dict[str, str]:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return headers
