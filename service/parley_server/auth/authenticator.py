"""Identifies callers by the configured credentials, or accepts all of them if there are none."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from parley_server.auth.jwks import FileKeys, Keys, UrlKeys
from parley_server.auth.static import StaticCredentials
from parley_server.auth.tokens import Tokens
from parley_server.core.access import END_USER, OPEN_TENANT, AccessRole, Credentials, Principal, Tenants
from parley_server.core.field_checks import check_key
from parley_server.core.observer import KeySetObserver
from parley_server.core.ports import Clock
from parley_server.errors import InvalidRequest, Unauthenticated
from parley_server.settings import IssuerSettings, Settings, TenantSettings


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
        # A wrong bearer is refused even with a valid certificate: the bearer names another caller than the certificate.
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


@dataclass(frozen=True)
class PreparedAccess:
    """The authenticator of one configuration, with the public keys of its issuers."""

    tenants: Mapping[str, TenantSettings]
    issuers: Mapping[str, IssuerSettings]
    is_open: bool
    keys: dict[str, Keys]
    authenticator: OpenAccess | ConfiguredAccess


class Access:
    """The authenticator of a server with what it keeps current in the background. A reload of the configuration
    replaces what it accepts. Implements `Authenticator`."""

    def __init__(self, settings: Settings, tenants: Tenants, *, clock: Clock, observer: KeySetObserver) -> None:
        self._tenants = tenants
        self._clock = clock
        self._observer = observer
        self._keeping: dict[Keys, asyncio.Task[None]] = {}
        self._now: PreparedAccess | None = None
        self._now = self.prepare(settings)

    @property
    def authenticator(self) -> OpenAccess | ConfiguredAccess:
        """The present authenticator."""
        assert self._now is not None
        return self._now.authenticator

    def known(self, credentials: Credentials) -> Principal | None:
        """See `Authenticator`."""
        return self.authenticator.known(credentials)

    async def authenticate(self, credentials: Credentials) -> Principal:
        """See `Authenticator`."""
        while True:
            authenticator = self.authenticator
            caller = await authenticator.authenticate(credentials)
            if authenticator is self.authenticator:  # otherwise a reload may have removed what it has just accepted
                return caller

    def prepare(self, settings: Settings) -> PreparedAccess:
        """What these settings accept, for `use`. What has not changed stays: keys that were read, verified tokens."""
        old = self._now
        keys = {name: self._keys_of(name, issuer) for name, issuer in settings.identity.items() if issuer.jwks}
        unchanged = old is not None and (old.tenants, old.issuers, old.is_open) == (
            settings.tenants,
            settings.identity,
            settings.is_open,
        )
        return PreparedAccess(
            tenants=settings.tenants,
            issuers=settings.identity,
            is_open=settings.is_open,
            keys=keys,
            authenticator=old.authenticator if old is not None and unchanged else self._accepting(settings, keys),
        )

    def use(self, prepared: PreparedAccess) -> None:
        """Accept this from now on."""
        self._now = prepared

    async def keep(self) -> None:
        """Keep the public keys of the present issuers current from now on, and close connections to former ones."""
        assert self._now is not None
        present = set(self._now.keys.values())
        for keys in present - self._keeping.keys():
            self._keeping[keys] = asyncio.create_task(keys.keep(), name="jwks")
        for keys in self._keeping.keys() - present:
            await self._stop_keeping(keys)
            # Callers may wait for its last fetch, whose answer no longer counts.
            await keys.finish()
            await keys.close()
            del self._keeping[keys]

    async def close(self) -> None:
        """Close connections to issuers."""
        for keys in self._keeping:
            await self._stop_keeping(keys)
            await keys.close()
        self._keeping.clear()

    async def _stop_keeping(self, keys: Keys) -> None:
        self._keeping[keys].cancel()
        await asyncio.gather(self._keeping[keys], return_exceptions=True)

    def _keys_of(self, name: str, issuer: IssuerSettings) -> Keys:
        """The keys that were read for this issuer before, or new ones."""
        old = self._now
        if old is not None and name in old.keys and old.issuers[name].jwks == issuer.jwks:
            return old.keys[name]
        if isinstance(issuer.jwks, str):
            return UrlKeys(name, issuer.jwks, clock=self._clock, observer=self._observer)
        assert issuer.jwks is not None
        return FileKeys(name, issuer.jwks, clock=self._clock, observer=self._observer)

    def _accepting(self, settings: Settings, keys: dict[str, Keys]) -> OpenAccess | ConfiguredAccess:
        if settings.is_open:
            # With `insecure`, everybody who reaches the address is accepted: too many for the role admin.
            roles = frozenset(AccessRole) if settings.listen.is_loopback else frozenset({AccessRole.CLIENT})
            return OpenAccess(roles, self._tenants)
        tokens = None
        if settings.identity:
            tokens = Tokens(settings.identity, keys, tenants=self._tenants, clock=self._clock)
        return ConfiguredAccess(StaticCredentials(settings.tenants), tokens, self._tenants)


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
