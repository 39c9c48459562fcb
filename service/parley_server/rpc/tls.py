"""The server's certificate and the authority of its callers, read again when their files change."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import Final

import grpc

from parley_server.core.ports import Clock

logger = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 60.0

Signature = tuple[tuple[int, int, int], ...]


class Certificates:
    """Three files, and what was last read from them: new connections use it, existing ones are kept.

    Files that do not fit together, such as a new certificate whose key is still to be written, change nothing; they are
    read again at the next look. gRPC makes a new TLS context of each new `configuration`, so that a session which a
    caller has kept from before is not resumed, and its certificate is checked against the new authority.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        """Raises OSError (`ssl.SSLError` is one) where the files cannot be read."""
        self._files = (certificate, key, client_ca)
        self._signature = self._look()
        self._failed: Signature | None = None
        self.configuration = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        """Credentials of one port. Each port needs its own, since each is given a new configuration once."""
        given = self.configuration

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            if given is self.configuration:
                return None
            given = self.configuration
            return given

        return grpc.dynamic_ssl_server_credentials(
            given,
            fetch,  # type: ignore[arg-type]  # the types leave out None, which stands for no change
            require_client_authentication=self._files[2] is not None,
        )

    async def keep(self, clock: Clock) -> None:
        """Look at the files once a minute, without end."""
        while True:
            await clock.sleep(LOOK_EVERY_S)
            await asyncio.to_thread(self.renew)

    def renew(self) -> bool:
        """Whether there were new files, which connections from now on use."""
        signature: Signature = ()
        try:
            signature = self._look()
            if signature == self._signature:
                return False
            self.configuration = self._read()
        except (OSError, ValueError) as error:
            if signature != self._failed:
                logger.warning("certificate_not_renewed", extra={"fields": {"problem": str(error)}})
            self._failed = signature
            return False
        self._signature = signature
        logger.info("certificate_renewed", extra={"fields": {"file": self._files[0].name}})
        return True

    def _look(self) -> Signature:
        seen = [file.stat() for file in self._files if file]
        return tuple((each.st_mtime_ns, each.st_size, each.st_ino) for each in seen)

    def _read(self) -> grpc.ServerCertificateConfiguration:
        """OpenSSL checks the files first: gRPC would find a fault only when a connection comes. Files that change
        meanwhile have another signature than the one kept, so that they are read again at the next look."""
        certificate, key, client_ca = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key, password=lambda: "")  # else OpenSSL asks on the terminal
        if client_ca:
            context.load_verify_locations(client_ca)
        return grpc.ssl_server_certificate_configuration(
            [(key.read_bytes(), certificate.read_bytes())], client_ca.read_bytes() if client_ca else None
        )
