"""The server's certificate and the CA of its clients, read again when their files change."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Final

import grpc

from parley_server.core.ports import Clock

logger = logging.getLogger(__name__)

CHECK_INTERVAL_S: Final = 60.0

Signature = tuple[tuple[int, int, int], ...]


class Certificates:
    """The contents of the certificate files. New connections use the latest contents; existing ones are kept.

    Files that do not match, such as a new certificate whose key is not yet written, are ignored and read again at the
    next check. gRPC makes a new TLS context for each new `configuration`, so that a client cannot resume an old session
    and its certificate is checked against the new CA.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        """Raises OSError, which includes `ssl.SSLError`, if the files cannot be read."""
        self._files = (certificate, key, client_ca)
        self._signature = self._signature_now()
        self._failed: Signature | None = None
        self.configuration = self._read()

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
        """Check the files once a minute, forever."""
        while True:
            await clock.sleep(CHECK_INTERVAL_S)
            await asyncio.to_thread(self.renew)  # the file system may block

    def renew(self) -> bool:
        """Read changed files, for new connections. Returns whether there were any."""
        signature: Signature = ()
        try:
            signature = self._signature_now()
            if signature == self._signature:
                return False
            self.configuration = self._read()
        except (OSError, ValueError) as error:
            # Logged once for each state of the files, and not at each check while they stay invalid.
            if signature != self._failed:
                logger.warning("certificate_reload_failed", extra={"fields": {"problem": str(error)}})
            self._failed = signature
            return False
        self._signature = signature
        logger.info("certificate_reloaded", extra={"fields": {"file": self._files[0].name}})
        return True

    def _signature_now(self) -> Signature:
        seen = [file.stat() for file in self._files if file]
        # Size and inode as well, because tools that copy or exchange files may keep the modification time.
        return tuple((each.st_mtime_ns, each.st_size, each.st_ino) for each in seen)

    def _read(self) -> grpc.ServerCertificateConfiguration:
        """Read the files after OpenSSL has checked them; gRPC would report a fault only at the next connection. Files
        that change meanwhile differ from the recorded signature, so that they are read again at the next check."""
        certificate, key, client_ca = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key, password=lambda: "")  # without it, OpenSSL prompts on the terminal
        if client_ca:
            context.load_verify_locations(client_ca)
        return grpc.ssl_server_certificate_configuration(
            [(key.read_bytes(), certificate.read_bytes())], client_ca.read_bytes() if client_ca else None
        )
