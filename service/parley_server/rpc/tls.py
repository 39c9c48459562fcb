"""The server's certificate and the authority of its callers, read anew when their files change."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from parley_server.core.ports import Clock

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 60.0

Signature = tuple[tuple[int, int, int], ...]


class Certificates:
    """Three files, and the `context` that was last made of them.

    Each time it is a new one, and not the same one with new files: that would still take an authority that has gone,
    and sessions that callers have kept, which spare them the check of their certificate. Files that do not fit, such as
    a new certificate whose key is still to be written, change nothing; they are looked at again the next time.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        """Raises OSError (`ssl.SSLError` is one) where the files cannot be read."""
        self._files = (certificate, key, client_ca)
        self._signature = self._look()
        self._failed: Signature | None = None
        self.context = self._read()

    async def keep(self, clock: Clock, take: Callable[[ssl.SSLContext], Awaitable[None]]) -> None:
        """Looks at the files for ever, and hands on each new context."""
        while True:
            await clock.sleep(LOOK_EVERY_S)
            if not await asyncio.to_thread(self.renew):
                continue
            try:
                await take(self.context)
            except OSError as error:
                log.warning("certificate_not_renewed", extra={"fields": {"problem": str(error)}})
                self._signature = ()  # they are still to be taken

    def renew(self) -> bool:
        """Whether there were new files, and a new context of them."""
        signature: Signature = ()
        try:
            signature = self._look()
            if signature == self._signature:
                return False
            self.context = self._read()
        except (OSError, ValueError) as error:
            if signature != self._failed:
                log.warning("certificate_not_renewed", extra={"fields": {"problem": str(error)}})
            self._failed = signature
            return False
        self._signature = signature
        log.info("certificate_renewed", extra={"fields": {"file": self._files[0].name}})
        return True

    def _look(self) -> Signature:
        seen = [file.stat() for file in self._files if file]
        return tuple((each.st_mtime_ns, each.st_size, each.st_ino) for each in seen)

    def _read(self) -> ssl.SSLContext:
        certificate, key, client_ca = self._files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        context.load_cert_chain(certificate, key, password=lambda: "")  # else OpenSSL asks on the terminal
        if client_ca:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context
