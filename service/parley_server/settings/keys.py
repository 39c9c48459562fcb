"""API keys of providers: resolves `env:NAME` and `file:PATH`, and reads a file again when it changes. Google's
credentials, which are not keys, are only named here."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parley_server.settings.files import is_file, read_limited

logger = logging.getLogger(__name__)

Version = tuple[int, int, int]


class ApiKey:
    """A key that is fixed, or that of a file. It has no `repr` of its own, so that no log line shows the key."""

    def __init__(self, key: str) -> None:
        self._key = key.strip()
        self._file: Path | None = None
        self._version: Version | None = None
        self._failed = False

    def __eq__(self, other: object) -> bool:
        """Whether both come from the same file, or from none, and are the same key."""
        return isinstance(other, ApiKey) and (self._file, self._key) == (other._file, other._key)

    __hash__ = None  # type: ignore[assignment]  # the key of a file changes

    @classmethod
    def from_file(cls, file: Path) -> ApiKey:
        """The key that the file holds. Raises OSError, and ValueError if it is empty or not UTF-8."""
        version = _version(file)
        key = cls(_read(file))
        key._file, key._version = file, version
        return key

    def current(self) -> str:
        """The key to send with the next request. While a changed file cannot be read, or is empty, the last key stays
        in use: a file that is being rewritten must not fail requests."""
        if self._file is not None:
            self._renew(self._file)
        return self._key

    def _renew(self, file: Path) -> None:
        try:
            # The version is read before the key: if the file changes in between, the next request reads it again.
            version = _version(file)
            if version != self._version:
                self._key = _read(file)
                self._version = version
                logger.info("api_key_reloaded", extra={"fields": {"file": file.name}})
            self._failed = False
        except (OSError, ValueError):
            if not self._failed:
                logger.warning("api_key_reload_failed", extra={"fields": {"file": str(file)}})
            self._failed = True


@dataclass(frozen=True)
class GoogleCredentials:
    """Where access tokens for Google Cloud come from: the JSON file of a service account, or the metadata server of the
    machine (None)."""

    service_account: Path | None = None


def google_credentials(reference: Any, folder: Path) -> GoogleCredentials | None:
    """The credentials of "google:metadata" or "google:PATH"; None for any other reference. A relative path starts at
    `folder`. Raises ValueError with the fault."""
    source, _, name = reference.partition(":") if isinstance(reference, str) else ("", "", "")
    if source != "google":
        return None
    if name == "metadata":
        return GoogleCredentials()
    if not name or not is_file(folder / name):
        raise ValueError(f'must be "google:metadata" or "google:PATH" of a file; there is no file {name}'.rstrip())
    return GoogleCredentials(folder / name)


def find_header(value: str, environment: Mapping[str, str]) -> str:
    """The value of a header, read from the environment if it is "env:NAME". Raises ValueError with the fault."""
    name = variable_of(value)
    if name is None:
        return value
    if not environment.get(name):
        raise ValueError(f"the environment variable {name} is not set")
    return environment[name].strip()


def find_key(reference: Any, environment: Mapping[str, str], folder: Path) -> ApiKey:
    """The key of "env:NAME" or "file:PATH"; a relative path starts at `folder`. Raises ValueError with the fault."""
    source, colon, name = reference.partition(":") if isinstance(reference, str) else ("", "", "")
    if source not in ("env", "file") or not colon or not name:
        raise ValueError('must be "env:NAME" or "file:PATH", never the key itself')
    if source == "env":
        if not environment.get(name):
            raise ValueError(f"the environment variable {name} is not set")
        return ApiKey(environment[name])
    try:
        return ApiKey.from_file(folder / name)
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"the file {name} cannot be read") from None
    except ValueError:
        raise ValueError(f"the file {name} is empty") from None


def variable_of(reference: Any) -> str | None:
    """The environment variable that a reference names; None for any other reference."""
    return reference.removeprefix("env:") if isinstance(reference, str) and reference.startswith("env:") else None


def _version(file: Path) -> Version:
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _read(file: Path) -> str:
    key = read_limited(file).decode().strip()
    if not key:
        raise ValueError("the file is empty")
    return key
