"""Refuses requests that other websites make through a user's browser, and passes the caller's API key on.

A website that the user visits can send requests to loopback. `Host` shows a name that was rebound to loopback (DNS
rebinding); `Sec-Fetch-Site`, `Origin` and the type of the body show a page of another origin (CSRF).
"""

from __future__ import annotations

from collections.abc import Collection
from contextvars import ContextVar
from typing import Final

from parley.asgi import Refusal
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
OWN_SITES: Final = ("same-origin", "none")
"""Values of `Sec-Fetch-Site`: the page itself, and an address that the user has typed."""
WITHOUT_CREDENTIAL: Final = "/api/page/config"

api_key: ContextVar[str] = ContextVar("api_key")
"""The API key of the request that the current task answers."""


class Guard:
    """The outermost ASGI application, which checks each request.

    `hosts`: the names that `Host` may have. `asks_key`: requests of the API need `Authorization: Bearer`."""

    def __init__(self, app: ASGIApp, *, hosts: Collection[str], asks_key: bool) -> None:
        self._app = app
        self._hosts = frozenset(hosts)
        self._asks_key = asks_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            raise ValueError(f"cannot serve {scope['type']}")
        headers = Headers(scope=scope)
        refused = self._refusal(scope, headers)
        if refused is not None:
            await refused(scope, receive, send)
            return
        if self._asks_key:
            api_key.set(_bearer(headers))
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        is_api = scope["path"].startswith("/api/")
        if _name(headers.get("host", "")) not in self._hosts:
            return _refuse(403, "FORBIDDEN", "The chat page has no such host; PARLEY_UI_HOSTS adds one.")
        if is_api and not _is_own(headers):
            return _refuse(403, "FORBIDDEN", "Only the chat page itself may call this address.")
        if scope["method"] == "POST" and _media_type(headers) != "application/json":
            return _refuse(415, "UNSUPPORTED_MEDIA_TYPE", "The content type must be application/json.")
        if is_api and self._asks_key and scope["path"] != WITHOUT_CREDENTIAL and not _bearer(headers):
            return _refuse(401, "UNAUTHENTICATED", "An API key is required.", {"WWW-Authenticate": "Bearer"})
        return None


def _name(host: str) -> str:
    """The name of a `Host` header, without its port."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower()


def _is_own(headers: Headers) -> bool:
    """Whether the browser says that the request comes from the page itself. Other programs send neither field."""
    if headers.get("sec-fetch-site", "none") not in OWN_SITES:
        return False
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2].lower() == headers["host"].lower()


def _media_type(headers: Headers) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _bearer(headers: Headers) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _refuse(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Response:
    body = {"message": message, "error": message, "code": code, "retryable": False}
    return Refusal(status, body, headers or {}).response()
