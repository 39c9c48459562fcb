"""The shape of `[identity.NAME]`: an issuer of JSON Web Tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from parley_server.settings.keys import ApiKey
from parley_server.settings.tenant_shape import Roles
from parley_server.settings.values import Items, Shape

Algorithm = Literal["RS256", "ES256", "HS256"]
ClaimName = Annotated[str, Field(max_length=256)]


class IssuerSettings(Shape):
    """One of `jwks` (a URL, or the path of a file) and `secret` is set, and one of `tenant` and `tenant_claim`.

    algorithms: those that its tokens may name. end_user_claim: empty if the end user is that of `x-end-user`.
    roles_claim: empty if all tokens have `roles`. allow_admin: whether a token may have the role admin.
    """

    issuer: Annotated[str, Field(min_length=1, max_length=2048)]
    audience: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Items, Field(min_length=1)]
    jwks: str | Path | None = None
    secret: ApiKey | None = None
    algorithms: Annotated[tuple[Algorithm, ...], Items, Field(min_length=1)] = ("RS256",)
    tenant: str = ""
    tenant_claim: ClaimName = ""
    end_user_claim: ClaimName = "sub"
    roles_claim: ClaimName = ""
    roles: Roles = ("client",)
    allow_admin: bool = False
