"""Runs an ASGI application on a real socket, and reads server-sent events from it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, Self

import httpx2
import uvicorn

LIMIT_S = 20.0


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield  # signals belong to the test run


@contextlib.asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """The application on a free port of loopback, in this event loop; yields its base URL."""
    config = uvicorn.Config(app, port=0, ws="none", log_level="warning", timeout_graceful_shutdown=5)
    server = _Server(config)
    running = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(LIMIT_S):
            while not server.started:
                assert not running.done(), running
                await asyncio.sleep(0.005)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await running


class Browser:
    """An HTTP client of one user. `headers` go with every request."""

    def __init__(self, url: str, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.http = httpx2.AsyncClient(base_url=url, headers=named, timeout=LIMIT_S, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def call(self, method: str, path: str, json: Any = None, **options: Any) -> httpx2.Response:
        return await self.http.request(method, path, json=json, **options)

    @contextlib.asynccontextmanager
    async def stream(self, method: str, path: str, json: Any = None, **options: Any) -> AsyncIterator[Sse]:
        """Sends the request, and yields the response once its headers are there."""
        async with self.http.stream(method, path, json=json, **options) as response:
            yield Sse(response)

    async def events(self, method: str, path: str, json: Any = None, **options: Any) -> list[dict[str, Any]]:
        """All events of a response."""
        async with self.stream(method, path, json, **options) as sse:
            return await sse.rest()


class Sse:
    """The events of a response. Comments are collected in `comments`."""

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response
        self.comments: list[str] = []
        self._events = self._read()

    async def next(self) -> dict[str, Any]:
        """The next event."""
        async with asyncio.timeout(LIMIT_S):
            return await anext(self._events)

    async def until(self, kind: str) -> dict[str, Any]:
        """The next event of this type; those before it are skipped."""
        while (event := await self.next())["type"] != kind:
            pass
        return event

    async def rest(self) -> list[dict[str, Any]]:
        """All further events."""
        async with asyncio.timeout(LIMIT_S):
            return [event async for event in self._events]

    async def _read(self) -> AsyncIterator[dict[str, Any]]:
        if self.response.status_code != 200:
            await self.response.aread()
            raise AssertionError(f"{self.response.status_code}: {self.response.text}")
        async for line in self.response.aiter_lines():
            if line.startswith("data: "):
                yield json.loads(line[6:])
            elif line:
                assert line.startswith(":"), line
                self.comments.append(line)


def text_of(events: list[dict[str, Any]], kind: str = "text", key: str = "text") -> str:
    """The text of the events of this type."""
    return "".join(event[key] for event in events if event["type"] == kind)
