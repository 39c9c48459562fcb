"""Whether a look finds that the configuration has changed: by content, through links, in all files that it names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from parley_server.settings import SettingsError, SettingsSource, load_settings
from parley_server.settings.files import MOST_BYTES
from parley_server.settings.source import files_named_by

NAMING = """
[providers.up]
kind = "openai"
base_url = "http://up.example/v1"
api_key = "file:up.key"
[models.m]
provider = "up"
name = "m"
[identity.corp]
issuer = "i"
audience = ["a"]
jwks = "file:keys.json"
tenant = "shop"
[tenants.shop]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {"parley.toml": NAMING, "up.key": "sk-1", "keys.json": '{"keys": [{}]}'}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def source_of(file: Path) -> SettingsSource:
    return SettingsSource(lambda: load_settings({"PARLEY_CONFIG": str(file)}), str(file))


def replace(file: Path, text: str) -> None:
    """Replace a file by another one, as most tools do."""
    other = file.with_name("other")
    other.write_text(text)
    other.replace(file)


def test_only_changes_are_found_and_each_once(folder) -> None:
    source = source_of(folder / "parley.toml")
    assert source.load().models.keys() == {"m"}
    assert not source.changed()
    (folder / "parley.toml").write_text(NAMING.replace("models.m", "models.n"))
    assert source.changed()
    assert not source.changed()
    assert source.load().models.keys() == {"n"}


def test_the_same_content_is_no_change(folder) -> None:
    source = source_of(folder / "parley.toml")
    os.utime(folder / "parley.toml")
    replace(folder / "parley.toml", NAMING)
    assert not source.changed()


@pytest.mark.parametrize("name", ["parley.toml", "up.key", "keys.json"])
def test_another_content_with_the_same_times_is_a_change(folder, name: str) -> None:
    source, file = source_of(folder / "parley.toml"), folder / name
    before, text = file.stat(), file.read_text()
    file.write_text(text[:-1] + ("2" if name == "up.key" else " "))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_mtime_ns, file.stat().st_size) == (before.st_mtime_ns, before.st_size)
    assert source.changed()
    assert not source.changed()


def test_an_exchanged_folder_behind_a_link_is_a_change(folder, tmp_path) -> None:
    """As the kubelet updates a ConfigMap: `parley.toml` -> `..data/parley.toml`, and `..data` is exchanged."""
    mount = tmp_path / "mount"
    for version, text in (("..1", NAMING), ("..2", NAMING.replace('"m"', '"n"'))):
        (mount / version).mkdir(parents=True)
        (mount / version / "parley.toml").write_text(text)
        (mount / version / "up.key").write_text("sk-1")
        (mount / version / "keys.json").write_text("{}")
    (mount / "..data").symlink_to("..1")
    for name in ("parley.toml", "up.key", "keys.json"):
        (mount / name).symlink_to(f"..data/{name}")
    source = source_of(mount / "parley.toml")
    (mount / "..new").symlink_to("..2")
    (mount / "..new").rename(mount / "..data")
    assert source.changed()
    assert not source.changed()


def test_a_file_that_is_gone_and_comes_back_is_two_changes(folder) -> None:
    source = source_of(folder / "parley.toml")
    for name in ("up.key", "parley.toml"):
        kept = (folder / name).read_text()
        (folder / name).unlink()
        assert source.changed()
        (folder / name).write_text(kept)
        assert source.changed()


def test_files_are_still_looked_at_while_the_configuration_is_no_toml(folder) -> None:
    source = source_of(folder / "parley.toml")
    (folder / "parley.toml").write_text("[[[")
    assert source.changed()
    (folder / "up.key").write_text("sk-2")
    assert source.changed()


def test_without_a_file_nothing_changes() -> None:
    source = SettingsSource(lambda: load_settings({}), "")
    assert not source.changed()


def test_the_files_that_a_configuration_names() -> None:
    document = {
        "providers": {
            "a": {"api_key": "file:a.key"},
            "b": {"api_key": "env:B"},
            "c": {"api_key": "google:account.json"},
            "d": {"api_key": 3},
            "e": 4,
        },
        "identity": {"i": {"jwks": "https://id/jwks", "secret": "file:/run/secret"}, "j": {"jwks": "file:j.json"}},
        "tls": {"certificate": "tls.crt", "key": "tls.key", "client_ca": 5},
        "models": [],
    }
    found = {str(each) for each in files_named_by(document, Path("/etc/parley"))}
    assert found == {
        "/etc/parley/a.key",
        "/etc/parley/account.json",
        "/run/secret",
        "/etc/parley/j.json",
        "/etc/parley/tls.crt",
        "/etc/parley/tls.key",
    }
    assert list(files_named_by({"providers": 1, "identity": [], "tls": "x"}, Path())) == []


def test_a_device_is_not_read(folder) -> None:
    (folder / "parley.toml").write_text(NAMING.replace("file:up.key", "file:/dev/zero"))
    assert not source_of(folder / "parley.toml").changed()


LONG = "x" * 300
"""A name that no file system allows: `Path.is_file` raises OSError for it, as for a folder without permission."""


@pytest.mark.parametrize(
    "changed",
    [
        NAMING.replace("file:up.key", f"file:{LONG}"),
        NAMING.replace("openai", "gemini").replace("file:up.key", f"google:{LONG}"),
        NAMING.replace("file:keys.json", f"file:{LONG}"),
        f'{NAMING}[tls]\ncertificate = "{LONG}"\nkey = "{LONG}"\n',
        "a = " + "[" * 5000,
    ],
    ids=["key", "google", "jwks", "tls", "nested"],
)
def test_a_file_that_cannot_be_looked_at_is_a_fault_and_no_defect(folder, changed: str) -> None:
    source = source_of(folder / "parley.toml")
    (folder / "parley.toml").write_text(changed)
    assert source.changed()
    with pytest.raises(SettingsError):
        source.load()
    with pytest.raises(SettingsError):
        source_of(folder / "parley.toml").load()
    (folder / "parley.toml").write_text(NAMING)
    assert source.changed()
    assert source.load().models.keys() == {"m"}


def test_a_file_that_becomes_a_folder_is_a_fault(folder) -> None:
    source = source_of(folder / "parley.toml")
    source.load()
    (folder / "parley.toml").unlink()
    (folder / "parley.toml").mkdir()
    assert source.changed()
    assert faults_of(source) == [f"{folder / 'parley.toml'}: Is a directory"]


def test_a_huge_file_is_a_fault_and_is_not_read_whole(folder) -> None:
    source = source_of(folder / "parley.toml")
    os.truncate(folder / "parley.toml", MOST_BYTES + 1)
    assert source.changed()
    assert faults_of(source) == [f"{folder / 'parley.toml'}: is larger than 16 MiB"]


@pytest.mark.parametrize("left", ["", "\n  \n"])
def test_a_file_that_becomes_empty_is_a_fault(folder, left: str) -> None:
    """As a tool leaves it that was stopped, or whose disk is full: the built-in models must not replace all others."""
    source = source_of(folder / "parley.toml")
    source.load()
    (folder / "parley.toml").write_text(left)
    assert source.changed()
    assert faults_of(source) == [f"{folder / 'parley.toml'}: is empty"]
    assert source_of(folder / "parley.toml").load().models, "a start without keys has the built-in models"


@pytest.fixture
def pipe() -> Iterator[Path]:
    """A configuration that can be read once, as `--config <(command)` passes it."""
    reads, writes = os.pipe()
    os.write(writes, NAMING.replace("file:up.key", "env:KEY").replace("file:keys.json", "https://id/keys").encode())
    os.close(writes)
    yield Path(f"/dev/fd/{reads}")
    os.close(reads)


def test_a_pipe_is_read_once_by_the_load_and_never_by_a_look(pipe: Path) -> None:
    source = SettingsSource(lambda: load_settings({"PARLEY_CONFIG": str(pipe), "KEY": "sk-1"}), str(pipe))
    assert not source.changed()
    settings = source.load()
    assert (settings.models.keys(), settings.is_open) == ({"m"}, False)
    assert not source.changed()
    assert faults_of(source) == [f"{pipe}: is not a file, so it cannot be read again"]


def faults_of(source: SettingsSource) -> list[str]:
    with pytest.raises(SettingsError) as raised:
        source.load()
    return raised.value.faults
