"""Keys of providers from the environment and from files, which are read again after a change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from parley_server.settings.keys import ApiKey, find_key


def test_a_key_from_the_environment_is_fixed(tmp_path: Path) -> None:
    environment = {"KEY": " one\n"}
    key = find_key("env:KEY", environment, tmp_path)
    environment["KEY"] = "two"
    assert key.current() == "one"


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("one\n")
    key = find_key("file:key", {}, tmp_path)
    assert key.current() == "one"
    (tmp_path / "key").write_text("two\n")
    os.utime(tmp_path / "key", ns=(1, 1))
    assert key.current() == "two"
    (tmp_path / "new").write_text("six\n")
    (tmp_path / "new").replace(tmp_path / "key")  # as a mounted secret changes
    assert key.current() == "six"


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff", None])
def test_a_file_that_becomes_unusable_keeps_the_last_key(
    tmp_path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "key"
    file.write_text("one")
    key = ApiKey.from_file(file)
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    assert [key.current(), key.current()] == ["one", "one"]
    assert [record.getMessage() for record in caplog.records] == ["api_key_reload_failed"]
    file.write_text("second")
    assert key.current() == "second"


def test_no_repr_contains_the_key(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-secret")
    for key in (ApiKey("sk-secret"), ApiKey.from_file(tmp_path / "key")):
        assert "sk-secret" not in f"{key!r} {key}"
