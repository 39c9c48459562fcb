"""Where the settings of a process come from, and whether they have changed since the last look."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from parley_server.settings.shape import Settings

_REFERENCES = {"providers": ("api_key",), "identity": ("jwks", "secret")}
_FILE_SOURCES = ("file", "google")

Contents = Mapping[Path, str | None]


class SettingsSource:
    """Reads the settings of a process, at its start and again for each reload. `read` reads all of them; `path` is that
    of the TOML file, empty without one."""

    def __init__(self, read: Callable[[], Settings], path: str) -> None:
        self._read = read
        self._path = Path(path) if path else None
        self._named: tuple[Path, ...] = ()
        # Before the first `load`, so that a change after it is found.
        self._seen = self._look()

    def load(self) -> Settings:
        """The settings as they are now. Raises `SettingsError` with every fault."""
        return self._read()

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
        try:
            text = self._path.read_bytes()
        except OSError:
            text = b""
        with suppress(ValueError):  # not UTF-8 or not TOML: the files that it named before may belong to its repair
            self._named = tuple(files_named_by(tomllib.loads(text.decode()), self._path.parent))
        return {self._path: hashlib.sha256(text).hexdigest(), **{file: _digest(file) for file in self._named}}


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


def _digest(file: Path) -> str | None:
    if not file.is_file():  # such as a folder, or a device without an end
        return None
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError:
        return None
