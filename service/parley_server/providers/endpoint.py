"""Asks a vendor over HTTP: posts a JSON body and pushes the bytes of the answer into a reader. All dialects share it.

No error contains a key, a prompt or a provider's own words.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import httpx2
import msgspec

from parley_server.core.clock import SystemClock
from parley_server.core.model import Finish, FinishReason, Prompt
from parley_server.core.observer import AttemptObserver
from parley_server.core.ports import Clock
from parley_server.core.tracing import current_span
from parley_server.errors import (
    InvalidRequest,
    ProviderError,
    ProviderMalformed,
    ProviderTruncated,
    ProviderUnauthenticated,
    ProviderUnavailable,
)
from parley_server.providers.http.client import JsonClient, Refused
from parley_server.providers.http.encoding import decoded
from parley_server.providers.http.transport import Body, body_of
from parley_server.providers.keys import RequestKeys
from parley_server.providers.reading.after_finish import AfterFinish
from parley_server.providers.reading.failures import Filtered, error_of_status
from parley_server.settings import EndpointSettings

Json = dict[str, Any]

AFTER_FINISH_S = 5.0
"""Longest wait for usage and the end of the body after the finish reason, in seconds."""
ORIGIN_CHARACTERS = 16
VERIFY_S = 5.0
"""Longest wait for a provider's answer to the question whether it accepts a key, in seconds."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_KEY = re.compile(r"[\x21-\x7e]+")


class Reader(Protocol):
    """Takes the bytes of an answer's body, in reads of any size. Its methods raise a `ProviderError`."""

    @property
    def begun(self) -> bool:
        """Whether any text, reasoning or tool call has arrived."""

    @property
    def finished(self) -> bool:
        """Whether the answer is complete, whatever follows."""

    def feed(self, data: bytes) -> None:
        """Take one read."""

    def end(self) -> Finish:
        """The body has ended: return the finish."""

    def cut(self) -> None:
        """The body broke off: push what is held."""


class Answer:
    """A response with status 2xx, as its reader needs it. `document`: it is declared as one JSON document.

    `notice` is called with the kind of data that was dropped (see `AttemptObserver.provider_oddity`)."""

    def __init__(
        self, body: Body, limit: AfterFinish, after_finish_s: float, *, document: bool, endpoint: Endpoint
    ) -> None:
        self._limit = limit
        self._after_finish_s = after_finish_s
        self.document = document
        self.stop = body.stop
        """Drop the rest of the body: nothing that the reply needs follows."""
        self.resume = limit.stop
        """Content follows the finish reason: wait for the rest without a limit."""
        self.notice = endpoint.notice
        self.now_s = endpoint.clock.monotonic

    def finish(self, content_s: float | None) -> None:
        """The finish reason has arrived: from now on, usage and the end of the body are awaited for a limited time.
        `content_s`: when the last content arrived, by `now_s`; None without content."""
        self._limit.start(self._after_finish_s, content_s)


class Endpoint:
    """The server at one base URL, with its connections, key and headers.

    The caller enforces all time limits except the connect limit; the others are read only to wait for usage within
    them. `keys` decides which key a request uses. No request is retried, except on a kept connection that turns out to
    have been closed before, and no redirect is followed with a prompt. Proxies that the environment names are used, at
    more CPU per token. `optional`: fields that a server may refuse by name; requests for the same model are then sent
    without them. What is left out of an answer is reported to `observer`. Raises `httpx2.InvalidURL` for a base URL
    that httpx2 cannot parse.
    """

    def __init__(
        self,
        name: str,
        settings: EndpointSettings,
        *,
        keys: RequestKeys | None = None,
        base_url: str = "",
        optional: tuple[str, ...] = (),
        after_finish_s: float = AFTER_FINISH_S,
        clock: Clock | None = None,
        observer: AttemptObserver | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.name = name
        self.base_url = (base_url or settings.base_url).rstrip("/")
        self.host = httpx2.URL(self.base_url).host
        self.clock = clock or SystemClock()
        self.keys = keys or RequestKeys(name, settings)
        self._account = settings.account
        self._first_token_s = settings.timeouts.first_token_s(reasoning=False)
        self._idle_s = settings.timeouts.idle
        self._after_finish_s = after_finish_s
        self._observer = observer
        self._optional = optional
        self._left_out: dict[str, frozenset[str]] = {}  # by name of the model
        self._client = JsonClient(
            self.base_url, headers=settings.headers, connect_s=settings.timeouts.connect, ssl_context=ssl_context
        )
        self.transport = self._client.transport

    def key(self, tenant: str, *, required: bool) -> str:
        """The key to send with the next request of this tenant, empty without one. Raises `ProviderUnauthenticated` for
        a key that no header can hold, for a stored one that cannot be decrypted, and where one is `required` or must be
        stored but is missing."""
        key = self.keys.of(tenant)
        if (key or required or self.keys.needs_stored) and not _KEY.fullmatch(key):
            where = "stored" if self.keys.needs_stored else "configured"
            raise ProviderUnauthenticated(f"no usable API key is {where} for the provider {self.name}")
        return key

    def origin(self, kind: str, api: str, model: str, *, tenant: str, account: str = "") -> str:
        """Identifies who sent the wire items that are kept: equal only for the same dialect, API, host, model name and
        account, because vendors refuse items of others. The account is the configured one, else `account`, else the
        key; for a tenant with its own key it is that key."""
        owner = "" if self.keys.has_own(tenant) else self._account or account
        owner = f"account {owner}" if owner else f"key {self.keys.fingerprint(tenant)}"
        identity = repr((kind, api, self.host, model, owner))
        return hashlib.sha256(identity.encode()).hexdigest()[:ORIGIN_CHARACTERS]

    async def ask(
        self, prompt: Prompt, url: str, body: Json, *, headers: Mapping[str, str], read: Callable[[Answer], Reader]
    ) -> Finish:
        """Post the body, with the model's `extra_body`, and have the reader that `read` returns read the answer.

        Raises any `ProviderError` except ProviderTimeout. A cancel closes the connection."""
        started_s = self.clock.monotonic()
        try:
            response = await self._send(prompt, url, body, headers)
            try:
                return await self._read(response, read, started_s)
            finally:
                await response.aclose()
        except Refused as refused:
            error = error_of_status(self.name, refused.status, headers=refused.headers, body=refused.body)
            if isinstance(error, Filtered):
                return _filtered(error)
            raise error from None
        except httpx2.TimeoutException:
            raise ProviderUnavailable(f"{self.name} could not be connected to in time") from None
        except httpx2.HTTPError as error:
            raise self._unavailable(error) from None

    async def verify(self, url: str, headers: Mapping[str, str]) -> None:
        """Ask the server at a URL that needs a valid key, for at most `VERIFY_S` seconds. `headers` contain the key.

        Raises `InvalidRequest` if it refuses the key, `ProviderUnauthenticated` if no header can hold the key, and
        `ProviderUnavailable` for any other answer or none."""
        if not all(value.isascii() and value.isprintable() for value in headers.values()):
            raise ProviderUnauthenticated(f"no usable API key is configured for the provider {self.name}")
        try:
            async with asyncio.timeout(VERIFY_S):
                await self._client.get(url, headers)
        except Refused as refused:
            error = error_of_status(self.name, refused.status, headers=refused.headers, body=refused.body)
            if isinstance(error, ProviderUnauthenticated):
                raise refused_key(self.name) from None
            problem = f"{self.name} answered with HTTP {refused.status}, so that the key could not be verified"
            raise ProviderUnavailable(problem) from None
        except (httpx2.HTTPError, TimeoutError):
            raise ProviderUnavailable(f"{self.name} gave no answer, so that the key could not be verified") from None

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()

    def notice(self, kind: str) -> None:
        """Report to the observer that data of this kind was dropped."""
        if self._observer is not None:
            self._observer.provider_oddity(self.name, kind)

    # --- request

    def completed(self, prompt: Prompt, body: Json) -> Json:
        """The body with the model's own fields, without those that the server has refused by name. An object of the
        model is added to the object of the same name, such as Gemini's `generationConfig`."""
        if prompt.model.extra_body:
            extra = msgspec.json.decode(prompt.model.extra_body, type=Json)
            body = body | {name: _added(body.get(name), value) for name, value in extra.items()}
        return _without(body, self._left_out.get(prompt.model.name, frozenset()))

    async def _send(self, prompt: Prompt, url: str, body: Json, headers: Mapping[str, str]) -> httpx2.Response:
        """Send the request, again without those optional fields that the server refuses by name."""
        if own := current_span.get().headers:
            headers = {**headers, **own}
        elif _TRACEPARENT.fullmatch(prompt.traceparent):
            headers = {**headers, "traceparent": prompt.traceparent}
        body = self.completed(prompt, body)
        try:
            return await self._client.post(url, body, headers)
        except Refused as refused:
            named = refused.fields(self._optional) & body.keys()
            if not named:
                raise
        response = await self._client.post(url, _without(body, named), headers)
        # Only after the server has accepted the request without the fields: the refusal may have another cause.
        self._left_out[prompt.model.name] = self._left_out.get(prompt.model.name, frozenset()) | named
        return response

    # --- response

    async def _read(self, response: httpx2.Response, read: Callable[[Answer], Reader], started_s: float) -> Finish:
        body = body_of(response)
        limit = AfterFinish(body, self.clock, first_token_at_s=started_s + self._first_token_s, idle_s=self._idle_s)
        document = response.headers.get("content-type", "").lower().startswith("application/json")
        reader = read(Answer(body, limit, self._after_finish_s, document=document, endpoint=self))
        try:
            return await self._push(response, body, reader, limit)
        except Filtered as refusal:
            if reader.begun:
                raise
            return _filtered(refusal)

    async def _push(self, response: httpx2.Response, body: Body, reader: Reader, limit: AfterFinish) -> Finish:
        feed = decoded(response.headers.get("content-encoding", ""), reader.feed, provider=self.name)
        try:
            await body.push_to(feed)
        except httpx2.HTTPError as error:
            if not reader.finished:
                raise self._broken(error, reader) from None
        except ProviderMalformed:
            if not reader.finished:
                raise
            self.notice("after_finish")  # the answer is complete: errors behind it must not fail the reply
        finally:
            limit.stop()
        return reader.end()

    def _broken(self, error: httpx2.HTTPError, reader: Reader) -> ProviderError:
        """The error of a connection that broke within the body: truncated if the peer closed it, else unavailable."""
        reader.cut()
        if isinstance(error, httpx2.RemoteProtocolError):
            return ProviderTruncated(f"{self.name} closed the connection before its answer was complete")
        broken = ProviderUnavailable(f"the connection to {self.name} broke")
        broken.billed = True
        return broken

    def _unavailable(self, error: httpx2.HTTPError) -> ProviderUnavailable:
        what = "sent no valid HTTP response" if isinstance(error, httpx2.RemoteProtocolError) else ""
        if isinstance(error, httpx2.ConnectError):
            what = "could not be connected to"
        return ProviderUnavailable(f"{self.name} {what or 'broke the connection'}")


def _added(own: Any, extra: Any) -> Any:
    return own | extra if isinstance(own, dict) and isinstance(extra, dict) else extra


def refused_key(provider: str) -> InvalidRequest:
    """The error of a key that its provider does not accept."""
    return InvalidRequest.field("api_key", f"{provider} refuses this key")


def _without(body: Json, names: frozenset[str]) -> Json:
    return {name: value for name, value in body.items() if name not in names} if names else body


def _filtered(refusal: Filtered) -> Finish:
    """The finish of an answer that a filter refused before its first token."""
    code = refusal.metadata.get("provider_code", "")
    return Finish(reason=FinishReason.CONTENT_FILTER, provider_reason=code or "content_filter")
