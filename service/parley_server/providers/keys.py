"""Where a provider's API key is found: in the environment, or in a file that may change. No key is ever shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from parley_server.errors import NotConfigured, ProviderUnauthenticated

Key = Callable[[], str | None]


def key_of(provider: str, spec: str, *, environment: Mapping[str, str]) -> Key:
    """What finds the key of "env:NAME" or "file:PATH" at each call; empty: there is none.

    Raises `NotConfigured` for anything else; the key that is found raises `ProviderUnauthenticated` where the file
    cannot be read. A variable that is not set is no key.
    """
    source, _, place = spec.partition(":")
    if not spec:
        return lambda: None
    if source == "env" and place:
        return lambda: environment.get(place)
    if source == "file" and place:
        return FileKey(provider, Path(place))
    if spec == "stored":
        raise NotConfigured(f"the provider {provider} wants a stored key, and this server cannot store keys")
    raise NotConfigured(f'the API key of the provider {provider} must be given as "env:NAME" or "file:PATH"')


class FileKey:
    """A key in a file, read again when the file has changed."""

    def __init__(self, provider: str, path: Path) -> None:
        self._provider = provider
        self._path = path
        self._version: tuple[int, int, int] | None = None
        self._key = ""

    def __call__(self) -> str:
        """The key as the file has it now."""
        try:
            stat = self._path.stat()
            version = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if version != self._version:
                self._key = self._path.read_text(encoding="utf-8").strip()
                self._version = version
        except (OSError, ValueError):
            raise ProviderUnauthenticated(f"the key file of the provider {self._provider} cannot be read") from None
        return self._key
