"""A provider for Anthropic's Messages API."""

from __future__ import annotations

import ssl
from functools import partial

import msgspec

from parley_server.core.model import Finish, Prompt
from parley_server.core.observer import AttemptObserver
from parley_server.core.ports import Clock, Sink
from parley_server.core.secret import Secret
from parley_server.providers.anthropic.prompt import message_body
from parley_server.providers.anthropic.reader import MessageReader
from parley_server.providers.endpoint import AFTER_FINISH_S, Answer, Endpoint, Json
from parley_server.providers.keys import RequestKeys
from parley_server.settings import AnthropicSettings


class AnthropicProvider:
    """One endpoint, see `Endpoint`. Its key is resolved for each call; Anthropic itself is not called without one.

    The key is sent as `x-api-key`, which Anthropic and all compatible servers accept."""

    def __init__(
        self,
        name: str,
        settings: AnthropicSettings,
        *,
        keys: RequestKeys | None = None,
        after_finish_s: float = AFTER_FINISH_S,
        clock: Clock | None = None,
        observer: AttemptObserver | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.endpoint = Endpoint(
            name,
            settings,
            keys=keys,
            after_finish_s=after_finish_s,
            clock=clock,
            observer=observer,
            ssl_context=ssl_context,
        )
        self._version = settings.version

    async def generate(self, prompt: Prompt, sink: Sink) -> Finish:
        key = self.endpoint.key(prompt.tenant, required=self.endpoint.host == "api.anthropic.com")
        headers = self._headers(key)
        origin = self._origin(prompt)
        read = partial(self._read, sink, origin)
        url = f"{self.endpoint.base_url}/v1/messages"
        return await self.endpoint.ask(prompt, url, self._body(prompt), headers=headers, read=read)

    def body_of(self, prompt: Prompt) -> bytes:
        """See `providers.registry.BuildsBody`."""
        return msgspec.json.encode(self.endpoint.completed(prompt, self._body(prompt)))

    async def verify_key(self, key: Secret) -> None:
        await self.endpoint.verify(f"{self.endpoint.base_url}/v1/models?limit=1", self._headers(key.reveal()))

    async def close(self) -> None:
        await self.endpoint.close()

    def _headers(self, key: str) -> dict[str, str]:
        return {"anthropic-version": self._version} | ({"x-api-key": key} if key else {})

    def _origin(self, prompt: Prompt) -> str:
        return self.endpoint.origin("anthropic", "messages", prompt.model.name, tenant=prompt.tenant)

    def _body(self, prompt: Prompt) -> Json:
        return message_body(prompt, origin=self._origin(prompt))

    def _read(self, sink: Sink, origin: str, answer: Answer) -> MessageReader:
        return MessageReader(
            self.endpoint.name,
            sink,
            origin=origin,
            on_finish=answer.finish,
            on_resume=answer.resume,
            on_done=answer.stop,
            now_s=answer.now_s,
            notice=answer.notice,
            document=answer.document,
        )
