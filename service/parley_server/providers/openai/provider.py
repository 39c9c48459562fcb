"""A provider for OpenAI's chat completions: OpenAI, OpenRouter, vLLM, Ollama and other compatible servers."""

from __future__ import annotations

import ssl

from parley_server.core.model import Finish, Prompt
from parley_server.core.observer import AttemptObserver
from parley_server.core.ports import Clock, Sink
from parley_server.providers.endpoint import AFTER_FINISH_S, Answer, Endpoint, Json
from parley_server.providers.openai.profile import switches_of
from parley_server.providers.openai.prompt import messages_of, options_of, stream_options_of
from parley_server.providers.openai.reader import ChunkReader
from parley_server.settings import OpenAISettings


class OpenAIProvider:
    """One endpoint, see `Endpoint`. Its key is resolved for each call; without a key, no `Authorization` is sent, and
    OpenAI itself is not called."""

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
        self.endpoint = Endpoint(
            name,
            settings,
            optional=("stream_options",),
            after_finish_s=after_finish_s,
            clock=clock,
            observer=observer,
            ssl_context=ssl_context,
        )
        self._switches = switches_of(settings)
        self._url = f"{self.endpoint.base_url}/chat/completions"

    async def generate(self, prompt: Prompt, sink: Sink) -> Finish:
        headers = self._authentication()

        def read(answer: Answer) -> ChunkReader:
            return ChunkReader(
                self.endpoint.name,
                sink,
                on_finish=answer.finish,
                on_resume=answer.resume,
                on_done=answer.stop,
                now_s=answer.now_s,
                notice=answer.notice,
                done_is_finish=self._switches.done_is_finish,
                document=answer.document,
            )

        return await self.endpoint.ask(prompt, self._url, self._body(prompt), headers=headers, read=read)

    async def close(self) -> None:
        await self.endpoint.close()

    def _body(self, prompt: Prompt) -> Json:
        body = {
            "model": prompt.model.name,
            "messages": messages_of(prompt, self._switches),
            "stream": True,
            **options_of(prompt, self._switches),
        }
        if stream_options := stream_options_of(self._switches):
            body["stream_options"] = stream_options
        return body

    def _authentication(self) -> dict[str, str]:
        key = self.endpoint.key(required=self.endpoint.host == "api.openai.com")
        if not key:
            return {}
        return {"api-key": key} if self._switches.auth == "api-key" else {"Authorization": f"Bearer {key}"}
