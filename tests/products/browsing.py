"""A browser's requests to a product backend: JSON calls, and server-sent events that are checked byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any, Self

import httpx2

from tests.products.backends import Product

LIMIT_S = 30.0
PAGE = "/api/page"


class Events:
    """One answer: a stream of server-sent events, or a refusal as JSON in `body`.

    `received` has the events that were read so far, `comments` counts the keep-alives. `cut`: the connection broke.
    """

    def __init__(self, answer: httpx2.Response) -> None:
        self._answer = answer
        self._bytes = answer.aiter_raw()
        self._rest = b""
        self.received: list[dict[str, Any]] = []
        self.comments = 0
        self.cut = False
        self.body: Any = None

    @property
    def status(self) -> int:
        return self._answer.status_code

    @property
    def headers(self) -> httpx2.Headers:
        return self._answer.headers

    @property
    def streams(self) -> bool:
        """Whether the answer is a stream."""
        return self.headers.get("content-type", "").startswith("text/event-stream")

    async def read_refusal(self) -> Self:
        """Read the body of an answer that is no stream."""
        content = await self._answer.aread()
        self.body = json.loads(content) if content else None
        return self

    async def next(self) -> dict[str, Any] | None:
        """The next event; None at the end of the answer."""
        assert self.streams, f"no stream, but {self.status}: {self.body}"
        async with asyncio.timeout(LIMIT_S):
            while True:
                block, found, rest = self._rest.partition(b"\n\n")
                if not found:
                    if not await self._more():
                        return None
                    continue
                self._rest = rest
                if block.startswith(b":"):
                    assert block == b": alive", block
                    self.comments += 1
                    continue
                self.received.append(_event(block))
                return self.received[-1]

    async def until(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Read to the next event of this type with these fields."""
        while (found := await self.next()) is not None:
            if found["type"] == kind and fields.items() <= found.items():
                return found
        raise AssertionError(f"the stream ended without {kind!r}: {self.received}")

    async def rest(self) -> list[dict[str, Any]]:
        """Read to the end of the answer; returns all events."""
        while await self.next() is not None:
            pass
        return self.received

    async def _more(self) -> bool:
        try:
            self._rest += await anext(self._bytes)
        except StopAsyncIteration:
            assert not self._rest, f"the stream ended within an event: {self._rest!r}"
            return False
        except httpx2.TransportError:
            self.cut = True
            return False
        return True


def _event(block: bytes) -> dict[str, Any]:
    """Parse a block of one line `data: JSON`, as the wire has it."""
    assert block.startswith(b"data: "), block
    assert b"\n" not in block, block
    value = json.loads(block[len(b"data: ") :])
    assert isinstance(value, dict), value
    return value


class Browser:
    """One user's browser at a product, whose token has these further claims. Use `async with`."""

    def __init__(self, product: Product, user: str, **claims: Any) -> None:
        self.product = product
        self.user = user
        limits = httpx2.Limits(max_connections=None)
        self._client = httpx2.AsyncClient(
            base_url=product.url,
            headers=product.headers(user, **claims),
            timeout=LIMIT_S,
            limits=limits,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    def forget_token(self) -> None:
        """Make further calls without a token."""
        self._client.headers.pop("Authorization", None)

    def use_token(self, token: str) -> None:
        """Make further calls with this token."""
        self._client.headers["Authorization"] = f"Bearer {token}"

    async def call(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """One call with its whole answer; `options` as in httpx2."""
        return await self._client.request(method, path, **options)

    async def get(self, path: str, **options: Any) -> Any:
        """The JSON of a GET that succeeds."""
        answer = await self.call("GET", path, **options)
        assert answer.status_code == 200, (path, answer.status_code, answer.text)
        return answer.json()

    @contextlib.asynccontextmanager
    async def events(self, method: str, path: str, **options: Any) -> AsyncIterator[Events]:
        """An answer that may be a stream; leaving the block closes the connection, as a browser does."""
        async with self._client.stream(method, path, **options) as answer:
            events = Events(answer)
            if not events.streams:
                await events.read_refusal()
            yield events

    # --- the page routes

    async def conversation(self, conversation: str) -> Any:
        return await self.get(f"{PAGE}/conversations/{conversation}")

    async def messages(self, conversation: str) -> list[dict[str, Any]]:
        """The newest messages, the oldest first."""
        return (await self.get(f"{PAGE}/conversations/{conversation}/messages"))["messages"]

    def attach(self, conversation: str, **query: Any) -> contextlib.AbstractAsyncContextManager[Events]:
        """The stream of the running reply."""
        return self.events("GET", f"{PAGE}/conversations/{conversation}/stream", params=query)

    async def stop(self, conversation: str, **body: Any) -> httpx2.Response:
        return await self.call("POST", f"{PAGE}/conversations/{conversation}/stop", json=body)

    def retry(
        self, conversation: str, message: str, *, key: str = ""
    ) -> contextlib.AbstractAsyncContextManager[Events]:
        """A new attempt at the answer with this message id."""
        return self.events(
            "POST",
            f"{PAGE}/conversations/{conversation}/retry",
            json={"replace_message_id": message},
            headers={"Idempotency-Key": key or new_key()},
        )


def new_key() -> str:
    """A new `Idempotency-Key`."""
    return str(uuid.uuid4())


def shape(body: Any) -> set[str]:
    """The fields of a refusal; checks their types and that nothing internal is in its text."""
    assert isinstance(body, dict), body
    assert isinstance(body["message"], str), body
    assert body["message"] == body["error"], body
    assert body["message"].strip(), body
    assert isinstance(body["code"], str), body
    assert isinstance(body["retryable"], bool), body
    for word in ("Traceback", "    at ", "/home", "/work", "node_modules", "site-packages", "Exception", ".py", ".js"):
        assert word not in body["message"], body
    return set(body)
