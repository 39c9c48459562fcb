"""Reads what a call shows about its caller: its metadata, and the client's TLS certificate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from parley_server.core.access import END_USER, Credentials
from parley_server.errors import InvalidRequest, Unauthenticated

AUTHORIZATION = "authorization"
DNS_PREFIX = "dns:"
# gRPC's names of the subject alternative names of a certificate, by their type.
_URIS = "peer_uri"
_DNS_NAMES = "peer_dns"
_SUBJECT = "x509_subject"

Metadata = Iterable[tuple[str, str | bytes]]


def text_metadata(metadata: Metadata | None) -> dict[str, str]:
    """Metadata without binary values. Of a repeated key, the last value counts."""
    return {key: value for key, value in metadata or () if isinstance(value, str)}


def credentials_of(metadata: Metadata | None, auth_context: Mapping[str, Iterable[bytes]]) -> Credentials:
    """The credentials of a call. Raises `Unauthenticated` for a second `authorization`, and `InvalidRequest` for a
    second `x-end-user`: where a proxy adds one, it is not clear which of them counts."""
    found: dict[str, str] = {}
    for key, value in metadata or ():
        if key not in (AUTHORIZATION, END_USER) or not isinstance(value, str):
            continue
        if key in found:
            raise Unauthenticated("repeated") if key == AUTHORIZATION else InvalidRequest.field(END_USER, "is repeated")
        found[key] = value
    return Credentials(
        authorization=found.get(AUTHORIZATION),
        end_user=found.get(END_USER),
        certificate=certificate_names(auth_context),
    )


def certificate_names(auth_context: Mapping[str, Iterable[bytes]]) -> tuple[str, ...] | None:
    """The URIs and DNS names of the client's certificate, which the server's `client_ca` has signed; None without a
    certificate."""
    if _SUBJECT not in auth_context:
        return None
    uris = [uri for uri in _texts(auth_context.get(_URIS, ())) if not uri.lower().startswith(DNS_PREFIX)]
    return (*uris, *(DNS_PREFIX + name for name in _texts(auth_context.get(_DNS_NAMES, ()))))


def _texts(values: Iterable[bytes]) -> list[str]:
    return [value.decode(errors="replace") for value in values]
