"""A provider for Google's generateContent API: the Gemini API, and Vertex AI where a project is configured."""

from __future__ import annotations

import ssl
from functools import partial
from urllib.parse import quote

import msgspec

from parley_server.core.model import Finish, Prompt
from parley_server.core.observer import AttemptObserver
from parley_server.core.ports import Clock, Sink
from parley_server.core.secret import Secret
from parley_server.errors import InvalidRequest, ProviderUnauthenticated
from parley_server.providers.endpoint import AFTER_FINISH_S, Answer, Endpoint, Json, refused_key
from parley_server.providers.gemini.google_auth import (
    GoogleTokens,
    StoredAccounts,
    is_service_account,
    service_account_fault,
)
from parley_server.providers.gemini.prompt import gemini_body
from parley_server.providers.gemini.reader import GeminiReader
from parley_server.providers.keys import RequestKeys
from parley_server.settings import GeminiSettings

GEMINI_URL = "https://generativelanguage.googleapis.com/v1"
VERTEX_HOST = "aiplatform.googleapis.com"
VERTEX_VERSION = "v1beta1"
API = "generateContent"


class GeminiProvider:
    """One endpoint, see `Endpoint`. The key or token is resolved for each call; without one, no authentication is sent,
    and Google itself is not called."""

    def __init__(
        self,
        name: str,
        settings: GeminiSettings,
        *,
        keys: RequestKeys | None = None,
        after_finish_s: float = AFTER_FINISH_S,
        clock: Clock | None = None,
        observer: AttemptObserver | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._project = settings.project
        self._path = f"/projects/{settings.project}/locations/{settings.location}" if settings.project else ""
        self.endpoint = Endpoint(
            name,
            settings,
            base_url=settings.base_url or gemini_url(settings),
            keys=keys,
            after_finish_s=after_finish_s,
            clock=clock,
            observer=observer,
            ssl_context=ssl_context,
        )
        self._stored_accounts = StoredAccounts(provider=name, clock=clock)
        self._tokens: GoogleTokens | None = None
        if settings.credentials is not None:
            self._tokens = GoogleTokens(settings.credentials, provider=name, clock=clock, ssl_context=ssl_context)

    async def generate(self, prompt: Prompt, sink: Sink) -> Finish:
        tokens = self._tokens_of(self.endpoint.keys.stored(prompt.tenant))
        headers = await self._authentication(prompt.tenant, tokens)
        read = partial(self._read, prompt, sink)
        try:
            return await self.endpoint.ask(prompt, self._url(prompt), self._body(prompt), headers=headers, read=read)
        except ProviderUnauthenticated:
            if tokens is not None:
                tokens.refused()
            raise

    def body_of(self, prompt: Prompt) -> bytes:
        """See `providers.registry.BuildsBody`."""
        return msgspec.json.encode(self.endpoint.completed(prompt, self._body(prompt)))

    def check_key(self, key: Secret) -> None:
        if is_service_account(key):
            if not self._project:
                raise InvalidRequest.field("api_key", "only Vertex AI takes a service account: configure project")
            if fault := service_account_fault(key):
                raise InvalidRequest.field("api_key", fault)

    async def verify_key(self, key: Secret) -> None:
        tokens = self._tokens_of(key if key.reveal() else None)
        if tokens is not None:
            try:
                await tokens.token()
            except ProviderUnauthenticated:
                raise refused_key(self.endpoint.name) from None
            return
        publisher = "/publishers/google" if self._project else ""
        await self.endpoint.verify(
            f"{self.endpoint.base_url}{publisher}/models?pageSize=1", self._with_key(key.reveal())
        )

    async def close(self) -> None:
        if self._tokens is not None:
            await self._tokens.close()
        await self._stored_accounts.close()
        await self.endpoint.close()

    def _url(self, prompt: Prompt) -> str:
        name = prompt.model.name
        if "/" not in name:
            name = f"publishers/google/models/{name}" if self._project else f"models/{name}"
        path = quote(f"{self._path}/{name}", safe="/@:")
        return f"{self.endpoint.base_url}{path}:streamGenerateContent?alt=sse"

    def _origin(self, prompt: Prompt) -> str:
        return self.endpoint.origin("gemini", API, prompt.model.name, tenant=prompt.tenant, account=self._project)

    def _body(self, prompt: Prompt) -> Json:
        return gemini_body(prompt, origin=self._origin(prompt))

    def _read(self, prompt: Prompt, sink: Sink, answer: Answer) -> GeminiReader:
        return GeminiReader(
            self.endpoint.name,
            sink,
            origin=self._origin(prompt),
            keeps=bool(prompt.tools),
            on_finish=answer.finish,
            on_resume=answer.resume,
            on_done=answer.stop,
            now_s=answer.now_s,
            notice=answer.notice,
            document=answer.document,
        )

    def _tokens_of(self, stored: Secret | None) -> GoogleTokens | None:
        """What issues the tokens for a request; None if a key is sent."""
        if stored is None:
            return self._tokens
        return self._stored_accounts.tokens(stored) if is_service_account(stored) else None

    async def _authentication(self, tenant: str, tokens: GoogleTokens | None) -> dict[str, str]:
        if tokens is not None:
            return {"Authorization": f"Bearer {await tokens.token()}"}
        return self._with_key(self.endpoint.key(tenant, required=self.endpoint.host.endswith(".googleapis.com")))

    def _with_key(self, key: str) -> dict[str, str]:
        if not key:
            return {}
        return {"Authorization": f"Bearer {key}"} if self._project else {"x-goog-api-key": key}


def gemini_url(settings: GeminiSettings) -> str:
    """Google's own address of the configured API."""
    if not settings.project:
        return GEMINI_URL
    host = VERTEX_HOST if settings.location == "global" else f"{settings.location}-{VERTEX_HOST}"
    return f"https://{host}/{VERTEX_VERSION}"
