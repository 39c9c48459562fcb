"""Identifies the caller of a call. The only place for credentials; this release has none and accepts every caller."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from parley_server.core.model import Identity

OPEN_TENANT = "default"
END_USER = "x-end-user"  # in lower case, as HTTP/2 sends all names


class Identities(Protocol):
    """Identifies the caller by the metadata of its call."""

    def identify(self, metadata: dict[str, str]) -> Identity:
        """Raises `Unauthenticated`."""


class OpenAccess:
    """Access without credentials: all callers are one tenant, and name their end user themselves."""

    def identify(self, metadata: dict[str, str]) -> Identity:
        """The identity with the end user of the metadata key `x-end-user`."""
        return Identity(tenant=OPEN_TENANT, end_user=metadata.get(END_USER, ""))


def text_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> dict[str, str]:
    """Metadata without binary values. Of a repeated key, the last value counts."""
    return {key: value for key, value in metadata or () if isinstance(value, str)}
