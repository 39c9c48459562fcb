"""A provider for OpenAI's chat completions and its Responses API: OpenAI, OpenRouter, vLLM and other servers."""

from __future__ import annotations

import ssl
from functools import partial

import msgspec

from parley_server.core.model import Finish, Prompt
from parley_server.core.observer import AttemptObserver
from parley_server.core.ports import Clock, Sink
from parley_server.core.secret import Secret
from parley_server.providers.endpoint import AFTER_FINISH_S, Answer, Endpoint, Json
from parley_server.providers.keys import RequestKeys
from parley_server.providers.openai.profile import profile_of, switches_of
from parley_server.providers.openai.prompt import chat_body
from parley_server.providers.openai.reader import ChunkReader
from parley_server.providers.openai.responses_prompt import responses_body
from parley_server.providers.openai.responses_reader import ResponsesReader
from parley_server.settings import OpenAISettings


class OpenAIProvider:
    """One endpoint, see `Endpoint`; a model's `api` decides which of the two APIs is used.

    Its key is resolved for each call; without a key, no `Authorization` is sent, and OpenAI itself is not called."""

    def __init__(
        self,
        name: str,
        settings: OpenAISettings,
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
            optional=("stream_options", "include"),
            keys=keys,
            after_finish_s=after_finish_s,
            clock=clock,
            observer=observer,
            ssl_context=ssl_context,
        )
        self._switches = switches_of(settings)
        # The list of models of OpenRouter needs no key.
        self._verify_path = "/key" if profile_of(settings) == "openrouter" else "/models"

    async def generate(self, prompt: Prompt, sink: Sink) -> Finish:
        headers = self._authentication(self._key(prompt.tenant))
        base_url, origin, body = self.endpoint.base_url, self._origin(prompt), self._body(prompt)
        if prompt.model.api == "responses":
            read = partial(self._read_response, sink, origin)
            return await self.endpoint.ask(prompt, f"{base_url}/responses", body, headers=headers, read=read)
        read_chat = partial(self._read_chat, sink, origin)
        return await self.endpoint.ask(prompt, f"{base_url}/chat/completions", body, headers=headers, read=read_chat)

    def body_of(self, prompt: Prompt) -> bytes:
        """See `providers.registry.BuildsBody`."""
        return msgspec.json.encode(self.endpoint.completed(prompt, self._body(prompt)))

    async def verify_key(self, key: Secret) -> None:
        await self.endpoint.verify(self.endpoint.base_url + self._verify_path, self._authentication(key.reveal()))

    async def close(self) -> None:
        await self.endpoint.close()

    def _origin(self, prompt: Prompt) -> str:
        return self.endpoint.origin("openai", prompt.model.api, prompt.model.name, tenant=prompt.tenant)

    def _body(self, prompt: Prompt) -> Json:
        build = responses_body if prompt.model.api == "responses" else chat_body
        return build(prompt, self._switches, origin=self._origin(prompt))

    def _read_response(self, sink: Sink, origin: str, answer: Answer) -> ResponsesReader:
        return ResponsesReader(
            self.endpoint.name,
            sink,
            origin=origin,
            on_done=answer.stop,
            now_s=answer.now_s,
            notice=answer.notice,
            document=answer.document,
        )

    def _read_chat(self, sink: Sink, origin: str, answer: Answer) -> ChunkReader:
        return ChunkReader(
            self.endpoint.name,
            sink,
            origin=origin,
            keeps_details=self._switches.replay_reasoning == "details",
            on_finish=answer.finish,
            on_resume=answer.resume,
            on_done=answer.stop,
            now_s=answer.now_s,
            notice=answer.notice,
            done_is_finish=self._switches.done_is_finish,
            document=answer.document,
        )

    def _key(self, tenant: str) -> str:
        return self.endpoint.key(tenant, required=self.endpoint.host == "api.openai.com")

    def _authentication(self, key: str) -> dict[str, str]:
        if not key:
            return {}
        return {"api-key": key} if self._switches.auth == "api-key" else {"Authorization": f"Bearer {key}"}
