"""Access tokens for Google Cloud, from a service account or from the metadata server of the machine."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable
from typing import Any, NamedTuple

import httpx2
import jwt

from parley_server.core.clock import SystemClock
from parley_server.core.ports import Clock
from parley_server.core.secret import Secret
from parley_server.errors import ProviderUnauthenticated, ProviderUnavailable
from parley_server.providers.reading.json_values import json_of
from parley_server.settings import GoogleCredentials

METADATA_URL = "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
ASSERTION_S = 3600
EARLY_S = 300.0
"""A token is replaced so many seconds before its end."""
MAX_LIFETIME_S = 12 * 3600.0
FETCH_TIMEOUT_S = 10.0

MAX_ACCOUNTS = 1000
"""Service accounts whose tokens are kept."""

_FIELDS = ("client_email", "private_key", "token_uri")
_TOKEN = re.compile(r"[\x21-\x7e]{1,16384}")


class _Token(NamedTuple):
    text: str
    end_s: float


class GoogleTokens:
    """The access token of the configured credentials, or of the stored JSON of a service account. It is fetched when it
    is needed, for all requests at once.

    The file of a service account is read for each token, so that it can be replaced. No error contains a part of the
    service account, of a token or of the answer."""

    def __init__(
        self,
        credentials: GoogleCredentials | Secret,
        *,
        provider: str,
        clock: Clock | None = None,
        metadata_url: str = METADATA_URL,
        client: httpx2.AsyncClient | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._account = _account_of(credentials)
        self._provider = provider
        self._clock = clock or SystemClock()
        self._metadata_url = metadata_url
        self._token: _Token | None = None
        self._fetching: asyncio.Task[_Token] | None = None
        # A proxy cannot reach the metadata server, which belongs to this machine.
        self._own_client = client is None
        self._client = client or httpx2.AsyncClient(
            timeout=FETCH_TIMEOUT_S,
            trust_env=self._account is not None,
            verify=ssl_context if ssl_context is not None else True,
        )

    async def token(self) -> str:
        """The token to send. Raises `ProviderUnauthenticated` if the credentials are refused or unusable, and
        `ProviderUnavailable` if the server that issues tokens does not answer."""
        if token := self._current(EARLY_S):
            return token
        if self._fetching is None:
            self._fetching = asyncio.ensure_future(self._fetch())
            self._fetching.add_done_callback(self._fetched)
        try:
            # Shielded, because a cancelled reply must not fail the others that wait for the same token.
            return (await asyncio.shield(self._fetching)).text
        except ProviderUnavailable:
            if token := self._current(0.0):
                return token
            raise

    def refused(self) -> None:
        """The API has refused the token: the next request gets a new one."""
        self._token = None

    async def close(self) -> None:
        """Close the connections."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.wait({self._fetching})
        if self._own_client:
            await self._client.aclose()

    def _current(self, left_s: float) -> str:
        """The last token if it is valid for longer than `left_s`, else an empty text."""
        token = self._token
        return token.text if token is not None and self._clock.boottime() + left_s < token.end_s else ""

    def _fetched(self, fetching: asyncio.Task[_Token]) -> None:
        self._fetching = None
        # Reading the exception also marks it as handled if no reply waits for it anymore.
        if not fetching.cancelled() and fetching.exception() is None:
            self._token = fetching.result()

    async def _fetch(self) -> _Token:
        started_s = self._clock.boottime()
        try:
            response = await self._client.send(self._request())
        except httpx2.HTTPError:
            raise ProviderUnavailable(f"{self._provider}: no access token could be fetched from Google") from None
        if response.status_code in {400, 401, 403, 404}:
            raise ProviderUnauthenticated(
                f"{self._provider}: Google issued no access token (HTTP {response.status_code})",
                metadata={"http_status": str(response.status_code)},
            )
        answer = json_of(response.content) if response.is_success else None
        fields = answer if isinstance(answer, dict) else {}
        token = fields.get("access_token")
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise ProviderUnavailable(f"{self._provider}: Google issued no access token (HTTP {response.status_code})")
        return _Token(token, started_s + _lifetime_s(fields.get("expires_in")))

    def _request(self) -> httpx2.Request:
        if self._account is None:
            return self._client.build_request("GET", self._metadata_url, headers={"Metadata-Flavor": "Google"})
        try:
            url, assertion = _assertion(self._account(), now_s=self._clock.now_us() // 1_000_000)
            form = {"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion}
            return self._client.build_request("POST", url, data=form)
        except (OSError, ValueError, TypeError, KeyError, jwt.PyJWTError, httpx2.InvalidURL):
            problem = "the service account cannot be read, or is no key of a service account"
            raise ProviderUnauthenticated(f"{self._provider}: {problem}") from None


class StoredAccounts:
    """The tokens of service accounts that are stored as keys. All of them share connections, and those that were not
    used for the longest time are forgotten."""

    def __init__(self, *, provider: str, clock: Clock | None = None) -> None:
        self._provider = provider
        self._clock = clock
        self._client: httpx2.AsyncClient | None = None
        self._tokens: dict[str, GoogleTokens] = {}

    def tokens(self, account: Secret) -> GoogleTokens:
        """The tokens of the service account with this JSON."""
        if self._client is None:
            self._client = httpx2.AsyncClient(timeout=FETCH_TIMEOUT_S)
        found = self._tokens.pop(account.fingerprint, None) or GoogleTokens(
            account, provider=self._provider, clock=self._clock, client=self._client
        )
        self._tokens[account.fingerprint] = found  # now the newest
        if len(self._tokens) > MAX_ACCOUNTS:
            del self._tokens[next(iter(self._tokens))]
        return found

    async def close(self) -> None:
        """Close the connections."""
        for tokens in self._tokens.values():
            await tokens.close()
        if self._client is not None:
            await self._client.aclose()


def is_service_account(key: Secret) -> bool:
    """Whether a stored key is the JSON of a service account."""
    return key.reveal().startswith("{")


def service_account_fault(key: Secret) -> str:
    """What is wrong with the JSON of a service account; empty if nothing is."""
    account = json_of(key.reveal().encode())
    fields = account if isinstance(account, dict) else {}
    missing = [name for name in _FIELDS if not isinstance(fields.get(name), str)]
    return f"must be the JSON of a service account; it has no {missing[0]}" if missing else ""


def _account_of(credentials: GoogleCredentials | Secret) -> Callable[[], bytes] | None:
    """Reads the JSON of a service account, which may change; None for the metadata server."""
    if isinstance(credentials, Secret):
        return credentials.reveal().encode
    return None if credentials.service_account is None else credentials.service_account.read_bytes


def _assertion(document: bytes, *, now_s: int) -> tuple[str, str]:
    """The URL that issues tokens for a service account, and the signed request for one."""
    account: Any = json_of(document)
    url = account["token_uri"]
    claims = {
        "iss": account["client_email"],
        "scope": SCOPE,
        "aud": url,
        "iat": now_s,
        "exp": now_s + ASSERTION_S,
    }
    key_id = account.get("private_key_id")
    headers = {"kid": key_id} if isinstance(key_id, str) else None
    return url, jwt.encode(claims, account["private_key"], algorithm="RS256", headers=headers)


def _lifetime_s(value: object) -> float:
    """The seconds for which a token is valid; 0 if they are not known."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        return 0.0
    return min(float(value), MAX_LIFETIME_S)
