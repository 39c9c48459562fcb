"""Sends requests over `PushTransport`, or through a proxy that the environment names, and reads refusals."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from typing import Any

import httpx2
import msgspec

from parley_server import __version__
from parley_server.providers.http.refusals import refusal_body
from parley_server.providers.http.transport import PushTransport, proxied

HEADERS = {"User-Agent": f"parley/{__version__}", "Accept": "application/json", "Accept-Encoding": "identity"}
KEEPALIVE_S = 60.0


class Refused(Exception):
    """A response with another status than 2xx, and the part of its body that arrived in time."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.headers = headers
        self.body = body

    def fields(self, names: tuple[str, ...]) -> frozenset[str]:
        """Those of the fields that the refusal names."""
        if self.status not in (400, 422):
            return frozenset()
        return frozenset(name for name in names if re.search(rb"\b%s\b" % name.encode(), self.body))


class JsonClient:
    """Connections to the server of `base_url`. `headers` are added to each request. Redirects are not followed.

    Raises `httpx2.InvalidURL` for a base URL that httpx2 cannot parse.
    """

    def __init__(
        self, base_url: str, *, headers: Mapping[str, str], connect_s: float, ssl_context: ssl.SSLContext | None
    ) -> None:
        self.transport = None if proxied(httpx2.URL(base_url)) else PushTransport(ssl_context=ssl_context)
        self._client = httpx2.AsyncClient(
            transport=self.transport,
            headers={**HEADERS, **headers, "Content-Type": "application/json"},
            timeout=httpx2.Timeout(None, connect=connect_s),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEPALIVE_S),
            verify=ssl_context if ssl_context is not None else self.transport is None,
            follow_redirects=False,
        )

    async def post(self, url: str, body: dict[str, Any], headers: Mapping[str, str]) -> httpx2.Response:
        """The response to a request, before its body was read. The caller closes it.

        Raises `Refused`, and `httpx2.HTTPError` for a request that could not be sent or was not answered."""
        request = self._client.build_request("POST", url, content=msgspec.json.encode(body), headers=dict(headers))
        return await self._sent(request)

    async def _sent(self, request: httpx2.Request) -> httpx2.Response:
        response = await self._client.send(request, stream=True)
        if response.is_success:
            return response
        try:
            raise Refused(response.status_code, response.headers, await refusal_body(response))
        finally:
            await response.aclose()

    async def get(self, url: str, headers: Mapping[str, str]) -> None:
        """Send a request whose answer is its status; raises like `post`."""
        request = self._client.build_request("GET", url, headers=dict(headers))
        await (await self._sent(request)).aclose()

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()
