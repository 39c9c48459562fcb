"""The server's certificate and the CA of its clients, read again when their files change."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

import grpc
from cryptography import x509

from parley_server.core.ports import Clock

logger = logging.getLogger(__name__)

CHECK_INTERVAL_S: Final = 60.0

Signature = tuple[tuple[int, int, int], ...]


class CertificateUnusable(OSError):
    """`file` cannot be read, or does not fit the others."""

    def __init__(self, file: Path, problem: str) -> None:
        super().__init__(f"{file}: {problem}")
        self.file = file


class Certificates:
    """The contents of the certificate files. New connections use the latest contents; existing ones are kept.

    Links are followed, so that a Secret of Kubernetes works. Files that do not match, such as a new certificate whose
    key is not yet written, are ignored and read again at the next check. gRPC makes a new TLS context for each new
    `configuration`, so that a client cannot resume an old session and its certificate is checked against the new CA.
    `ends_s` has the ends of validity as Unix times: of "certificate" with its chain the earliest one, of "client_ca"
    the latest one. A file whose times cannot be read is left out.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        """Raises `CertificateUnusable`."""
        self._files = (certificate, key, client_ca)
        self._looking = asyncio.Lock()
        self._signature = self._signature_now()
        self._failed: Signature | None = None
        self.configuration, self.ends_s = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials for one port. Each port needs its own, because each fetches a new configuration once."""
        given = self.configuration

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            if given is self.configuration:
                return None
            given = self.configuration
            return given

        return grpc.dynamic_ssl_server_credentials(
            given,
            fetch,  # type: ignore[arg-type]  # the types omit None, which means no change
            require_client_authentication=self._files[2] is not None,
        )

    async def keep(self, clock: Clock) -> None:
        """Look once a minute, forever."""
        while True:
            await clock.sleep(CHECK_INTERVAL_S)
            await self.look()

    async def look(self) -> None:
        """`renew` in a thread, since the file system may block."""
        async with self._looking:
            await asyncio.to_thread(self.renew)

    def renew(self) -> bool:
        """Read changed files, for new connections. Returns whether there were any."""
        signature: Signature = ()
        try:
            signature = self._signature_now()
            if signature == self._signature:
                return False
            read = self._read()
            if self._signature_now() != signature:
                return False  # what was checked may differ from what was read: the next look reads again
        except CertificateUnusable as error:
            # Logged once for each state of the files, and not at each check while they stay invalid.
            if signature != self._failed:
                fields = {"file": str(error.file), "problem": str(error)}
                logger.warning("certificate_reload_failed", extra={"fields": fields})
            self._failed = signature
            return False
        (self.configuration, self.ends_s), self._signature = read, signature
        logger.info("certificate_reloaded", extra={"fields": {"file": self._files[0].name}})
        return True

    def _signature_now(self) -> Signature:
        seen = [_stat(file) for file in self._files if file]
        # Size and inode as well, because tools that copy or exchange files may keep the modification time.
        return tuple((each.st_mtime_ns, each.st_size, each.st_ino) for each in seen)

    def _read(self) -> tuple[grpc.ServerCertificateConfiguration, dict[str, float]]:
        """Read the files after OpenSSL has checked them; gRPC would report a fault only at the next connection. Raises
        `CertificateUnusable`."""
        certificate, key, client_ca = self._files
        for file in (certificate, client_ca):
            if file:
                _check(file, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations)
        # The certificate can be read, so that a fault is one of the key, or the two do not fit together. Without a
        # password, OpenSSL would prompt on the terminal.
        chain = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _check(key, lambda file: chain.load_cert_chain(certificate, file, password=lambda: ""))
        try:
            pair = key.read_bytes(), certificate.read_bytes()
            authorities = client_ca.read_bytes() if client_ca else None
        except OSError as error:
            raise CertificateUnusable(Path(error.filename), _problem(error)) from error
        ends_s = {
            "certificate": min(_ends_s(pair[1]), default=None),
            "client_ca": max(_ends_s(authorities), default=None),
        }
        known_s = {name: end_s for name, end_s in ends_s.items() if end_s is not None}
        return grpc.ssl_server_certificate_configuration([pair], authorities), known_s


def _check(file: Path, load: Callable[[Path], None]) -> None:
    try:
        load(file)
    except (OSError, ValueError) as error:
        raise CertificateUnusable(file, _problem(error)) from error


def _ends_s(pem: bytes | None) -> list[float]:
    """The ends of validity of all certificates; empty if one of them has a form that this library refuses."""
    try:
        return [each.not_valid_after_utc.timestamp() for each in x509.load_pem_x509_certificates(pem or b"")]
    except Exception:  # noqa: BLE001 - OpenSSL has accepted the file; no form of it may end a start or a reload
        return []


def _stat(file: Path) -> os.stat_result:
    try:
        return file.stat()
    except OSError as error:
        raise CertificateUnusable(file, _problem(error)) from error


def _problem(error: OSError | ValueError) -> str:
    return str(getattr(error, "strerror", None) or error)
