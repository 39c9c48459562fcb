"""Where the settings of a process come from, and whether they have changed since the last look."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from parley_server.settings.faults import SettingsError
from parley_server.settings.files import MOST_BYTES, is_file, is_stream, read_limited
from parley_server.settings.shape import Settings

_REFERENCES = {"providers": ("api_key",), "identity": ("jwks", "secret")}
_FILE_SOURCES = ("file", "google")

Contents = Mapping[Path, str | None]


class SettingsSource:
    """Reads the settings of a process, at its start and again for each reload. `read` reads all of them; `path` is that
    of the TOML file, empty without one. A pipe can be read once: its settings cannot be reloaded."""

    def __init__(self, read: Callable[[], Settings], path: str) -> None:
        self._read = read
        self._path = Path(path) if path else None
        self._is_loaded = False
        self._named: tuple[Path, ...] = ()
        # Before the first `load`, so that a change after it is found.
        self._seen = self._look()

    def load(self) -> Settings:
        """The settings as they are now. Raises `SettingsError` with every fault.

        After the first time, an empty file is a fault, too. It has no keys, so its settings would be valid; but a disk
        that is full leaves such a file behind."""
        if self._is_loaded and self._path is not None:
            if is_stream(self._path):
                raise SettingsError([f"{self._path}: is not a file, so it cannot be read again"])
            if _is_blank(self._path):
                raise SettingsError([f"{self._path}: is empty"])
        settings = self._read()
        self._is_loaded = True
        return settings

    def changed(self) -> bool:
        """Whether the TOML file, or a file that it names, has another content than at the last call; the first call
        compares with the creation. Links are followed, so that an exchanged folder of a ConfigMap is a change."""
        seen = self._look()
        before, self._seen = self._seen, seen
        return seen != before

    def _look(self) -> Contents:
        """The digest of each file; None for one that cannot be read. Contents are compared and not times, since tools
        that exchange files may keep those."""
        if self._path is None:
            return {}
        text = _content(self._path)
        if text is not None:
            with suppress(ValueError, RecursionError):  # not TOML: the files that it named may belong to its repair
                self._named = tuple(files_named_by(tomllib.loads(text.decode()), self._path.parent))
        return {file: _digest(_content(file)) for file in self._named} | {self._path: _digest(text)}


def files_named_by(document: Mapping[str, Any], folder: Path) -> Iterator[Path]:
    """The files of keys, key sets and certificates that a configuration names, whether they exist or not. A relative
    path starts at `folder`."""
    for section, keys in _REFERENCES.items():
        tables = document.get(section)
        for table in tables.values() if isinstance(tables, dict) else ():
            for reference in (table.get(key) for key in keys) if isinstance(table, dict) else ():
                source, _, name = reference.partition(":") if isinstance(reference, str) else ("", "", "")
                if source in _FILE_SOURCES and name:
                    yield folder / name
    tls = document.get("tls")
    for name in tls.values() if isinstance(tls, dict) else ():
        if isinstance(name, str) and name:
            yield folder / name


def _content(file: Path) -> bytes | None:
    """The content; None for what is not a file (a folder, a pipe, a device), is too large, or cannot be read."""
    try:
        return read_limited(file, MOST_BYTES) if is_file(file) else None
    except OSError:
        return None


def _digest(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()


def _is_blank(file: Path) -> bool:
    content = _content(file)
    return content is not None and not content.strip()
