"""Keeps the public keys of an issuer current: from a URL or a file."""

from __future__ import annotations

import asyncio
import logging
import stat
from pathlib import Path
from typing import Final, Protocol

import httpx2

from parley_server import __version__
from parley_server.auth.key_set import MAX_BYTES, KeySet, parse_key_set
from parley_server.core.observer import KeySetObserver
from parley_server.core.ports import Clock

logger = logging.getLogger(__name__)

REFRESH_S: Final = 600.0
LEAST_INTERVAL_S: Final = 30.0
"""Limits the fetches that unknown key ids cause."""
FIRST_INTERVAL_S: Final = 1.0
"""The same while there are no keys at all, since all callers with a token wait for them."""
LOOK_INTERVAL_S: Final = 5.0
FETCH_S: Final = 5.0

Version = tuple[int, int, int]


class Keys(Protocol):
    """The keys of one issuer."""

    def current(self) -> KeySet | None:
        """The keys that were read last; None before the first time."""

    async def renewed(self) -> KeySet | None:
        """The keys after a new look, because a key was not found. Looks are limited, so that invalid tokens cause few
        of them."""

    async def keep(self) -> None:
        """Keep the keys current, forever."""

    async def finish(self) -> None:
        """Wait for a fetch that runs."""

    async def close(self) -> None:
        """Close connections. Nothing waits for keys any more."""


class UrlKeys:
    """Fetches the keys from a URL, one fetch at a time. While that fails, the last keys stay in use."""

    def __init__(self, name: str, url: str, *, clock: Clock, observer: KeySetObserver) -> None:
        self._name = name
        self._url = url
        self._clock = clock
        self._observer = observer
        self._keys: KeySet | None = None
        self._began_s = float("-inf")
        self._fetching: asyncio.Task[None] | None = None
        self._failed = False
        self._client: httpx2.AsyncClient | None = None

    def current(self) -> KeySet | None:
        """See `Keys`."""
        return self._keys

    async def renewed(self) -> KeySet | None:
        """See `Keys`."""
        interval_s = FIRST_INTERVAL_S if self._keys is None else LEAST_INTERVAL_S
        if self._fetching is None and self._clock.monotonic() >= self._began_s + interval_s:
            self._began_s = self._clock.monotonic()
            self._fetching = asyncio.create_task(self._renew(), name=f"jwks {self._name}")
        if self._fetching is not None:
            await asyncio.shield(self._fetching)  # other callers wait for it, too
        return self._keys

    async def keep(self) -> None:
        """See `Keys`."""
        while True:
            await self.renewed()
            interval_s = FIRST_INTERVAL_S if self._keys is None else LEAST_INTERVAL_S
            await self._clock.sleep(interval_s if self._failed else REFRESH_S)

    async def finish(self) -> None:
        """See `Keys`."""
        if self._fetching is not None:
            await asyncio.wait({self._fetching})

    async def close(self) -> None:
        """See `Keys`."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    async def _renew(self) -> None:
        try:
            self._keys = parse_key_set(await self._fetch())
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            if not self._failed:
                fields = {"issuer": self._name, "problem": _problem(error)}
                logger.warning("jwks_refresh_failed", extra={"fields": fields})
            self._failed = True
        else:
            self._failed = False
        finally:
            self._fetching = None
        self._observer.jwks_refreshed("failed" if self._failed else "ok")

    async def _fetch(self) -> bytes:
        """The body of the response. Raises ValueError, OSError (which includes TimeoutError) and `httpx2.HTTPError`."""
        if self._client is None:
            self._client = _client()
        return await _fetched(self._client, self._url)


class FileKeys:
    """Reads the keys from a file, again after it has changed. While that fails, the last keys stay in use."""

    def __init__(self, name: str, file: Path, *, clock: Clock, observer: KeySetObserver) -> None:
        self._name = name
        self._file = file
        self._clock = clock
        self._observer = observer
        self._keys: KeySet | None = None
        self._looked_s = float("-inf")
        self._version: Version | None = None

    def current(self) -> KeySet | None:
        """See `Keys`."""
        if self._clock.monotonic() >= self._looked_s + LOOK_INTERVAL_S:
            self._looked_s = self._clock.monotonic()
            self._look()
        return self._keys

    async def renewed(self) -> KeySet | None:
        """See `Keys`."""
        return self.current()

    async def keep(self) -> None:
        """See `Keys`. Nothing needs to be done between calls."""

    async def finish(self) -> None:
        """See `Keys`."""

    async def close(self) -> None:
        """See `Keys`."""

    def _look(self) -> None:
        version: Version | None = None
        try:
            # The version is read before the content: if the file changes in between, the next look reads it again.
            seen = self._file.stat()
            version = (seen.st_mtime_ns, seen.st_size, seen.st_ino)
            if version == self._version:
                return
            self._keys = _read(self._file)
        except (OSError, ValueError) as error:
            logger.warning("jwks_refresh_failed", extra={"fields": {"issuer": self._name, "problem": str(error)}})
            self._observer.jwks_refreshed("failed")
        else:
            self._observer.jwks_refreshed("ok")
        self._version = version


async def check_keys(source: str | Path) -> None:
    """Read the keys at a URL or in a file once. Raises ValueError with the problem."""
    try:
        if isinstance(source, Path):
            _read(source)
            return
        async with _client() as client:
            parse_key_set(await _fetched(client, source))
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        raise ValueError(_problem(error)) from error


def _read(file: Path) -> KeySet:
    """The keys in a file. Raises ValueError and OSError. To open a pipe would block the event loop."""
    if not stat.S_ISREG(file.stat().st_mode):
        raise ValueError(f"{file} is not a regular file")
    with file.open("rb") as content:
        return parse_key_set(content.read(MAX_BYTES + 1))


def _client() -> httpx2.AsyncClient:
    headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": f"parley/{__version__}"}
    return httpx2.AsyncClient(headers=headers, follow_redirects=False, timeout=FETCH_S)


async def _fetched(client: httpx2.AsyncClient, url: str) -> bytes:
    """The body of the response. Raises ValueError, OSError (which includes TimeoutError) and `httpx2.HTTPError`."""
    body = b""
    async with asyncio.timeout(FETCH_S), client.stream("GET", url) as response:
        if response.status_code != httpx2.codes.OK:
            raise ValueError(f"the URL answered HTTP {response.status_code}")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise ValueError("the URL answered with a compressed body")
        async for piece in response.aiter_raw():
            body += piece
            if len(body) > MAX_BYTES:
                break  # the parser refuses it
    return body


def _problem(error: Exception) -> str:
    return str(error) or type(error).__name__
