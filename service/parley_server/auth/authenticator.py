"""Identifies callers by the configured credentials, or accepts all of them if there are none."""

from __future__ import annotations

import hashlib
from collections.abc import Coroutine

import msgspec

from parley_server.auth.jwks import FileKeys, Keys, UrlKeys
from parley_server.auth.static import StaticCredentials
from parley_server.auth.tokens import Tokens
from parley_server.core.access import END_USER, OPEN_TENANT, AccessRole, Credentials, Principal, Tenants
from parley_server.core.field_checks import check_key
from parley_server.core.observer import KeySetObserver
from parley_server.core.ports import Clock
from parley_server.errors import InvalidRequest, Unauthenticated
from parley_server.settings import Settings


class OpenAccess:
    """Accepts every caller. All are one tenant, and name their end user themselves. Implements `Authenticator`."""

    def __init__(self, roles: frozenset[AccessRole], tenants: Tenants) -> None:
        self._caller = Principal(tenant=OPEN_TENANT, roles=roles, credential="open")
        self._tenants = tenants

    def known(self, credentials: Credentials) -> Principal:
        """See `Authenticator`."""
        return _for_end_user(self._caller, credentials, self._tenants)

    async def authenticate(self, credentials: Credentials) -> Principal:
        """See `Authenticator`."""
        return self.known(credentials)


class ConfiguredAccess:
    """Accepts callers with an API key, a token or a client certificate. Implements `Authenticator`."""

    def __init__(self, static: StaticCredentials, tokens: Tokens | None, tenants: Tenants) -> None:
        self._static = static
        self._tokens = tokens
        self._tenants = tenants

    def known(self, credentials: Credentials) -> Principal | None:
        """See `Authenticator`."""
        # A wrong bearer is refused even with a valid certificate: the caller has asked to be somebody else.
        if credentials.authorization is None:
            return _for_end_user(self._static.by_certificate(credentials), credentials, self._tenants)
        secret = _bearer(credentials.authorization)
        digest = _digest(secret)
        if (caller := self._static.by_digest(digest)) is not None:
            return _for_end_user(caller, credentials, self._tenants)
        if self._tokens is None or secret.count(".") != 2:
            raise Unauthenticated("unknown")
        verified = self._tokens.cached(digest)
        if verified is None or verified.names_end_user:
            return verified.principal if verified else None
        return _for_end_user(verified.principal, credentials, self._tenants)

    async def authenticate(self, credentials: Credentials) -> Principal:
        """See `Authenticator`."""
        if (caller := self.known(credentials)) is not None:
            return caller
        assert self._tokens is not None
        secret = _bearer(credentials.authorization or "")
        verified = await self._tokens.verify(secret, _digest(secret))
        if verified.names_end_user:
            return verified.principal
        return _for_end_user(verified.principal, credentials, self._tenants)


class Access:
    """The authenticator of a server with what it keeps current in the background."""

    def __init__(self, settings: Settings, tenants: Tenants, *, clock: Clock, observer: KeySetObserver) -> None:
        self._keys: dict[str, Keys] = {}
        for name, issuer in settings.identity.items():
            if isinstance(issuer.jwks, str):
                self._keys[name] = UrlKeys(name, issuer.jwks, clock=clock, observer=observer)
            elif issuer.jwks is not None:
                self._keys[name] = FileKeys(name, issuer.jwks, clock=clock, observer=observer)
        self.authenticator: OpenAccess | ConfiguredAccess
        if settings.is_open:
            # With `insecure`, everybody who reaches the address is accepted: too many for the role admin.
            roles = frozenset(AccessRole) if settings.listen.is_loopback else frozenset({AccessRole.CLIENT})
            self.authenticator = OpenAccess(roles, tenants)
            return
        tokens = Tokens(settings.identity, self._keys, tenants=tenants, clock=clock) if settings.identity else None
        self.authenticator = ConfiguredAccess(StaticCredentials(settings.tenants), tokens, tenants)

    def background(self) -> list[Coroutine[None, None, None]]:
        """The work to run in the background until the server stops."""
        return [keys.keep() for keys in self._keys.values()]

    async def close(self) -> None:
        """Close connections to issuers."""
        for keys in self._keys.values():
            await keys.close()


def _for_end_user(caller: Principal, credentials: Credentials, tenants: Tenants) -> Principal:
    """The caller with the end user of `x-end-user`. Raises `InvalidRequest`."""
    end_user = credentials.end_user
    if end_user is None:
        if tenants.policy(caller.tenant).require_end_user:
            raise InvalidRequest.field(END_USER, "is required for this tenant")
        return caller
    check_key(END_USER, end_user)
    if not end_user or not end_user.isprintable():
        raise InvalidRequest.field(END_USER, "must be 1 to 128 printable characters")
    return msgspec.structs.replace(caller, end_user=end_user)


def _bearer(authorization: str) -> str:
    # Not a regular expression, which would take longer than all the rest for a token of usual length.
    scheme, _, secret = authorization.partition(" ")
    secret = secret.lstrip(" ")
    if scheme.lower() != "bearer" or not secret or " " in secret or not secret.isprintable():
        raise Unauthenticated("scheme")
    return secret


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
