"""The client of a TLS connection, according to its certificate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

SUBJECT = "x509_subject"
NAMES = "x509_subject_alternative_name"


@dataclass(frozen=True)
class Peer:
    """A certificate that the server's `client_ca` has signed: its subject in the form of RFC 2253, and its subject
    alternative names (DNS names, addresses, URIs such as a SPIFFE id) without their types."""

    subject: str
    names: tuple[str, ...]


def peer_of(auth_context: Mapping[str, Iterable[bytes]]) -> Peer | None:
    """Read the certificate in gRPC's authentication context; None without a certificate."""
    subject = _texts(auth_context.get(SUBJECT, ()))
    names = _texts(auth_context.get(NAMES, ()))
    if not subject and not names:
        return None
    return Peer(subject[0] if subject else "", names)


def _texts(values: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(value.decode(errors="replace") for value in values)
