"""An identity provider that signs tokens at any time, and serves its public keys once it is up."""

from __future__ import annotations

from typing import Any, Self

from tests.issuer import ISSUER, Issuer, served
from tests.upstream import Upstream

SIGNER = Issuer("conformance")
UNAVAILABLE, UP = served(b"", 503), served(SIGNER.jwks())
CONFIG = """
[identity.corp]
issuer = "{issuer}"
audience = ["parley"]
jwks = "{jwks}"
algorithms = ["ES256"]
tenant = "{tenant}"
"""


def token(claims: dict[str, Any]) -> str:
    """A valid token; the end user is the claim `sub`."""
    return SIGNER.token(**claims)


class IdentityProvider:
    """Answers with status 503 until `up` is called."""

    def __init__(self) -> None:
        self._server = Upstream()
        self._server.reply_with(UNAVAILABLE)

    async def __aenter__(self) -> Self:
        await self._server.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.__aexit__()

    def config(self, tenant: str) -> str:
        """The lines of a configuration for tokens of this provider."""
        return CONFIG.format(issuer=ISSUER, jwks=f"{self._server.url}/jwks.json", tenant=tenant)

    def up(self) -> None:
        """Serve the public keys from now on."""
        self._server.reply_with(UP)
