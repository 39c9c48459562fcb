"""Middleware that limits the bodies of requests."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class LimitBody:
    """Refuses to read more than `max_bytes` of a request's body: 413, with the JSON of `exception_handlers`."""

    def __init__(self, app: ASGIApp, *, max_bytes: int = 1024 * 1024) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        read_bytes = 0

        async def limited() -> Message:
            nonlocal read_bytes
            # A declared length is refused before the body is read.
            if declared.isdecimal() and int(declared) > self._max_bytes:
                raise HTTPException(413)
            message = await receive()
            read_bytes += len(message.get("body", b""))
            if read_bytes > self._max_bytes:
                raise HTTPException(413)
            return message

        await self._app(scope, limited, send)
