"""Who a call is from. Credentials are checked here and nowhere else; a server without any runs open."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from parley_server.core.model import Identity

OPEN_TENANT = "default"
END_USER = "x-end-user"


class Identities(Protocol):
    """Tells the caller from the metadata of its call."""

    def identify(self, metadata: dict[str, str]) -> Identity:
        """Raises `Unauthenticated`."""


class OpenAccess:
    """No credentials are configured: everybody is one tenant, and says for which end user."""

    def identify(self, metadata: dict[str, str]) -> Identity:
        """The end user that the call names in `x-end-user`."""
        return Identity(tenant=OPEN_TENANT, end_user=metadata.get(END_USER, ""))


def text_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> dict[str, str]:
    """Metadata without binary values; of a repeated key, the last."""
    return {key: value for key, value in metadata or () if isinstance(value, str)}
