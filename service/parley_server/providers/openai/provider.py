"""A provider for OpenAI's chat completions: OpenAI, OpenRouter, vLLM, Ollama and other compatible servers.

The SDK builds the request and classifies error responses. The body's bytes bypass it, which saves CPU per token. No
error text contains a key or a prompt.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from typing import Any, TypeAlias

import httpx2
import openai
from openai.types.chat import ChatCompletionChunk

from parley_server.core.clock import SystemClock
from parley_server.core.model import Finish, FinishReason, Prompt
from parley_server.core.observer import AttemptObserver
from parley_server.core.ports import Clock, Sink
from parley_server.errors import (
    ProviderError,
    ProviderMalformed,
    ProviderTruncated,
    ProviderUnauthenticated,
    ProviderUnavailable,
)
from parley_server.providers.http.encoding import decoded
from parley_server.providers.http.refusals import RefusalReader
from parley_server.providers.http.transport import Body, PushTransport, body_of, proxied
from parley_server.providers.openai.errors import Filtered, error_of_status
from parley_server.providers.openai.profile import switches_of
from parley_server.providers.openai.prompt import messages_of, options_of, stream_options_of
from parley_server.providers.openai.reader import ChunkReader
from parley_server.providers.reading.after_finish import AfterFinish
from parley_server.settings import OpenAISettings

RequestHeaders: TypeAlias = Mapping[str, str | openai.Omit]

AFTER_FINISH_S = 5.0
"""Longest wait for usage and `[DONE]` after the finish reason, in seconds."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_KEY = re.compile(r"[\x21-\x7e]+")


class OpenAIProvider:
    """One endpoint. Its key is resolved for each call; without a key, no `Authorization` is sent, and OpenAI itself is
    not called.

    The caller enforces all time limits except the connect limit; the others are read only to wait for usage within
    them. No request is retried, except on a kept connection that turns out to have been closed before, and no redirect
    is followed with a prompt. Proxies that the environment names are used, at more CPU per token. What is left out of
    an answer is reported to `observer`. Raises `httpx2.InvalidURL` for a base URL that httpx2 cannot parse.
    """

    def __init__(
        self,
        name: str,
        settings: OpenAISettings,
        *,
        after_finish_s: float = AFTER_FINISH_S,
        clock: Clock | None = None,
        observer: AttemptObserver | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        base_url = settings.base_url
        self._name = name
        self._switches = switches_of(settings)
        self._api_key = settings.api_key
        self._first_token_s = settings.timeouts.first_token_s(reasoning=False)
        self._idle_s = settings.timeouts.idle
        self._after_finish_s = after_finish_s
        self._clock = clock or SystemClock()
        self._observer = observer
        self._is_openai = httpx2.URL(base_url).host == "api.openai.com"
        self.transport = None if proxied(httpx2.URL(base_url)) else PushTransport(ssl_context=ssl_context)
        limits = httpx2.Timeout(None, connect=settings.timeouts.connect)
        self._client = openai.AsyncOpenAI(
            api_key="replaced at each call",
            base_url=base_url,
            max_retries=0,
            timeout=limits,
            # The SDK takes these headers from the environment. They are for OpenAI, not for other hosts.
            default_headers=None if self._is_openai else _WITHOUT_ACCOUNT,
            http_client=_http_client(self.transport, limits, ssl_context),
        )

        # Absolute, because the SDK would parse and join a relative one for each request.
        self._url = f"{str(self._client.base_url).rstrip('/')}/chat/completions"

    async def generate(self, prompt: Prompt, sink: Sink) -> Finish:
        """See `Provider`. Raises any `ProviderError` except ProviderTimeout."""
        started_s = self._clock.monotonic()
        body, headers = self._request(prompt)
        try:
            stream = await self._send(body, headers)
            try:
                return await self._read(stream.response, sink, started_s)
            finally:
                await stream.response.aclose()
        except openai.APIStatusError as error:
            response = error.response
            refusal = error_of_status(self._name, error.status_code, headers=response.headers, body=response.content)
            if isinstance(refusal, Filtered):
                return _filtered(refusal)
            raise refusal from None
        except openai.APITimeoutError:
            raise ProviderUnavailable(f"{self._name} could not be connected to in time") from None
        except openai.APIConnectionError as error:
            raise self._unavailable(error.__cause__) from None
        except httpx2.HTTPError as error:
            raise self._unavailable(error) from None

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()

    # --- request

    async def _send(self, body: dict[str, Any], headers: RequestHeaders) -> openai.AsyncStream[ChatCompletionChunk]:
        """Send the request. If the server refuses `stream_options` by name, send this and all later requests without
        it."""
        try:
            return await self._post(body, headers)
        except openai.APIStatusError as error:
            if "stream_options" not in body or not _refuses_stream_options(error):
                raise
        body = {name: value for name, value in body.items() if name != "stream_options"}
        stream = await self._post(body, headers)
        # Only after the server has accepted the request without the options: the refusal may have another cause.
        self._switches = self._switches.model_copy(update={"ask_usage": False, "no_obfuscation": False})
        return stream

    async def _post(self, body: dict[str, Any], headers: RequestHeaders) -> openai.AsyncStream[ChatCompletionChunk]:
        return await self._client.post(
            self._url,
            cast_to=ChatCompletionChunk,
            body=body,
            options={"headers": headers},
            stream=True,
            stream_cls=openai.AsyncStream[ChatCompletionChunk],
        )

    def _request(self, prompt: Prompt) -> tuple[dict[str, Any], RequestHeaders]:
        """Body and headers. They are built without the SDK's typed `create`, which validates every field: 150 us of CPU
        for the request and 160 us more for each message."""
        headers = self._authentication()
        if _TRACEPARENT.fullmatch(prompt.traceparent):
            headers["traceparent"] = prompt.traceparent
        body = {
            "model": prompt.model.name,
            "messages": messages_of(prompt, self._switches),
            "stream": True,
            **options_of(prompt, self._switches),
        }
        if stream_options := stream_options_of(self._switches):
            body["stream_options"] = stream_options
        return body, headers

    def _authentication(self) -> dict[str, str | openai.Omit]:
        key = self._api_key.current() if self._api_key is not None else ""
        if not key and not self._is_openai:
            return {"Authorization": openai.Omit()}
        if not _KEY.fullmatch(key):
            raise ProviderUnauthenticated(f"no usable API key is configured for the provider {self._name}")
        if self._switches.auth == "api-key":
            return {"Authorization": openai.Omit(), "api-key": key}
        return {"Authorization": f"Bearer {key}"}

    # --- response

    async def _read(self, response: httpx2.Response, sink: Sink, started_s: float) -> Finish:
        body = body_of(response)
        limit = AfterFinish(body, self._clock, first_token_at_s=started_s + self._first_token_s, idle_s=self._idle_s)
        reader = ChunkReader(
            self._name,
            sink,
            on_finish=lambda content_s: limit.start(self._after_finish_s, content_s),
            on_resume=limit.stop,
            on_done=body.stop,
            now_s=self._clock.monotonic,
            notice=self._notice,
            done_is_finish=self._switches.done_is_finish,
            document=response.headers.get("content-type", "").lower().startswith("application/json"),
        )
        try:
            return await self._push(response, body, reader, limit)
        except Filtered as refusal:
            if reader.begun:
                raise
            return _filtered(refusal)

    async def _push(self, response: httpx2.Response, body: Body, reader: ChunkReader, limit: AfterFinish) -> Finish:
        feed = decoded(response.headers.get("content-encoding", ""), reader.feed, provider=self._name)
        try:
            await body.push_to(feed)
        except httpx2.HTTPError as error:
            if not reader.finished:
                raise self._broken(error, reader) from None
        except ProviderMalformed:
            if not reader.finished:
                raise
            self._notice("after_finish")  # the answer is complete: errors behind it must not fail the reply
        finally:
            limit.stop()
        return reader.end()

    def _notice(self, kind: str) -> None:
        if self._observer is not None:
            self._observer.provider_oddity(self._name, kind)

    def _broken(self, error: httpx2.HTTPError, reader: ChunkReader) -> ProviderError:
        """The error of a connection that broke within the body: truncated if the peer closed it, else unavailable."""
        reader.cut()
        if isinstance(error, httpx2.RemoteProtocolError):
            return ProviderTruncated(f"{self._name} closed the connection before its answer was complete")
        broken = ProviderUnavailable(f"the connection to {self._name} broke")
        broken.billed = True
        return broken

    def _unavailable(self, error: BaseException | None) -> ProviderUnavailable:
        what = "sent no valid HTTP response" if isinstance(error, httpx2.RemoteProtocolError) else ""
        if isinstance(error, httpx2.ConnectError):
            what = "could not be connected to"
        return ProviderUnavailable(f"{self._name} {what or 'broke the connection'}")


def _filtered(refusal: Filtered) -> Finish:
    """The finish of an answer that a filter refused before its first token."""
    code = refusal.metadata.get("provider_code", "")
    return Finish(reason=FinishReason.CONTENT_FILTER, provider_reason=code or "content_filter")


def _refuses_stream_options(error: openai.APIStatusError) -> bool:
    return error.status_code in (400, 422) and "stream_options" in error.response.text


_WITHOUT_ACCOUNT: Mapping[str, Any] = {"OpenAI-Organization": openai.Omit(), "OpenAI-Project": openai.Omit()}


def _http_client(
    transport: PushTransport | None, limits: httpx2.Timeout, ssl_context: ssl.SSLContext | None
) -> httpx2.AsyncClient:
    if transport is not None:
        return RefusalReader(transport=transport, timeout=limits, follow_redirects=False)
    unlimited = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=60.0)
    return RefusalReader(
        timeout=limits,
        limits=unlimited,
        follow_redirects=False,
        verify=ssl_context if ssl_context is not None else True,
    )
