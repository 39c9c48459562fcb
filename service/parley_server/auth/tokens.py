"""JSON Web Tokens: verifies them, and reads the caller from their claims."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any, Final

import jwt

from parley_server.auth.jwks import Keys
from parley_server.auth.key_set import KeySet
from parley_server.core.access import AccessRole, Principal, Tenants
from parley_server.core.field_checks import MAX_KEY
from parley_server.core.ports import Clock
from parley_server.errors import IdentityUnavailable, Unauthenticated
from parley_server.settings import IssuerSettings

LEEWAY_S: Final = 30
CACHED_S: Final = 300
MAX_CACHED: Final = 10_000
MAX_LABEL: Final = 64

_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")
_CAUSES: dict[type[jwt.PyJWTError], str] = {
    jwt.ExpiredSignatureError: "expired",
    jwt.ImmatureSignatureError: "not_yet_valid",
    jwt.InvalidSignatureError: "signature",
    jwt.InvalidAudienceError: "audience",
    jwt.InvalidIssuerError: "issuer",
    jwt.InvalidAlgorithmError: "algorithm",
    jwt.MissingRequiredClaimError: "claims",
}


@dataclass(frozen=True)
class Verified:
    """The caller of a valid token. `names_end_user`: the end user is that of the token, not that of `x-end-user`."""

    principal: Principal
    names_end_user: bool


class Tokens:
    """Verifies the tokens of all issuers. `keys`: those of each issuer that has public keys, by its name."""

    def __init__(
        self, issuers: dict[str, IssuerSettings], keys: dict[str, Keys], *, tenants: Tenants, clock: Clock
    ) -> None:
        self._issuers = {issuer.issuer: (name, issuer) for name, issuer in issuers.items()}
        self._keys = keys
        self._tenants = tenants
        self._clock = clock
        self._cached: dict[str, tuple[Verified, float]] = {}

    def cached(self, digest: str) -> Verified | None:
        """The result for the token of this SHA-256, if it was verified within the last minutes and has not expired."""
        found = self._cached.get(digest)
        if found is None:
            return None
        verified, until_s = found
        if self._clock.monotonic() < until_s:
            return verified
        del self._cached[digest]
        return None

    async def verify(self, token: str, digest: str) -> Verified:
        """Check a token, and cache the result if it is valid. Raises `Unauthenticated`, `IdentityUnavailable`."""
        try:
            unverified = jwt.decode_complete(token, options={"verify_signature": False})
            name, issuer = self._issuers[str(unverified["payload"].get("iss"))]
        except KeyError:
            raise Unauthenticated("issuer") from None
        except jwt.PyJWTError:
            raise Unauthenticated("malformed") from None
        if (algorithm := str(unverified["header"].get("alg"))) not in issuer.algorithms:
            raise Unauthenticated("algorithm")
        key = await self._key(name, issuer, unverified["header"].get("kid"), algorithm)
        claims = _decoded(token, key, issuer)
        verified = self._caller(name, issuer, claims)
        self._keep(digest, verified, int(claims["exp"]))
        return verified

    async def _key(self, name: str, issuer: IssuerSettings, kid: str | None, algorithm: str) -> jwt.PyJWK | bytes:
        if issuer.secret is not None:
            return issuer.secret.current().encode()
        keys = self._keys[name]
        found = _found(keys.current(), kid, algorithm)
        if found is None:
            renewed = await keys.renewed()
            if renewed is None:
                raise IdentityUnavailable
            found = _found(renewed, kid, algorithm)
        if found is None:
            raise Unauthenticated("kid")
        return found

    def _caller(self, name: str, issuer: IssuerSettings, claims: dict[str, Any]) -> Verified:
        tenant = issuer.tenant or claims[issuer.tenant_claim]
        if not isinstance(tenant, str) or not _TENANT.fullmatch(tenant) or not self._tenants.known(tenant):
            raise Unauthenticated("tenant")
        end_user = claims[issuer.end_user_claim] if issuer.end_user_claim else ""
        if not isinstance(end_user, str) or (issuer.end_user_claim and not _is_name(end_user, MAX_KEY)):
            raise Unauthenticated("claims")
        subject = claims.get("sub", "")
        label = f"jwt:{name}:{subject}" if _is_name(subject, MAX_LABEL) else f"jwt:{name}"
        roles = _roles(issuer, claims.get(issuer.roles_claim))
        principal = Principal(tenant=tenant, end_user=end_user, roles=roles, credential=label)
        return Verified(principal, names_end_user=bool(issuer.end_user_claim))

    def _keep(self, digest: str, verified: Verified, expires_s: int) -> None:
        # The library checks `exp` by the same clock.
        now_s = int(time.time())
        left_s = min(expires_s, now_s + CACHED_S) - now_s  # negative within the leeway, which keeps nothing
        while len(self._cached) >= MAX_CACHED:
            del self._cached[next(iter(self._cached))]  # the oldest
        self._cached[digest] = (verified, self._clock.monotonic() + left_s)


def _found(keys: KeySet | None, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
    return None if keys is None else keys.find(kid, algorithm)


def _decoded(token: str, key: jwt.PyJWK | bytes, issuer: IssuerSettings) -> dict[str, Any]:
    """The claims of a valid token, with all that the issuer's settings name."""
    named = [each for each in (issuer.tenant_claim, issuer.end_user_claim, issuer.roles_claim) if each]
    try:
        return jwt.decode(
            token,
            key,
            algorithms=list(issuer.algorithms),
            audience=list(issuer.audience),
            issuer=issuer.issuer,
            leeway=LEEWAY_S,
            options={"require": ["exp", "iss", "aud", *named], "enforce_minimum_key_length": True},
        )
    except jwt.InvalidKeyError:  # the file of the secret has a shorter one now
        raise IdentityUnavailable from None
    except jwt.PyJWTError as error:
        raise Unauthenticated(_CAUSES.get(type(error), "malformed")) from None


def _roles(issuer: IssuerSettings, claimed: object) -> frozenset[AccessRole]:
    names: Any = issuer.roles
    if issuer.roles_claim:
        names = claimed.split() if isinstance(claimed, str) else claimed if isinstance(claimed, list) else []
    roles = frozenset(role for role in AccessRole if role.value in names)
    return roles if issuer.allow_admin else roles - {AccessRole.ADMIN}


def _is_name(text: object, limit: int) -> bool:
    return isinstance(text, str) and 0 < len(text) <= limit and text.isprintable()
