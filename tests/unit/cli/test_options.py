"""How the options of `parley serve` combine with the configuration."""

from __future__ import annotations

import os

import pytest
from parley_server.cli import _parser
from parley_server.cli.options import read_settings


@pytest.mark.parametrize(
    ("arguments", "environment", "listen"),
    [
        ([], {}, "None"),
        (["--ui"], {}, "127.0.0.1:8080"),
        (["--ui"], {"PARLEY_UI_LISTEN": "localhost:9000"}, "localhost:9000"),
        ([], {"PARLEY_UI_LISTEN": "localhost:9000"}, "localhost:9000"),
        (["--ui-port", "9001"], {"PARLEY_UI_LISTEN": "localhost:9000"}, "127.0.0.1:9001"),
        (["--ui", "--ui-port", "0"], {}, "127.0.0.1:0"),
    ],
)
def test_the_address_of_the_chat_page(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], environment: dict[str, str], listen: str
) -> None:
    for name in [name for name in os.environ if name.startswith("PARLEY_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert str(read_settings(_parser().parse_args(["serve", *arguments])).ui_listen) == listen


@pytest.mark.parametrize("port", ["65536", "-1", "http", "٣"])
def test_a_port_that_is_none_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _parser().parse_args(["serve", f"--ui-port={port}"])
    assert "argument --ui-port: must be a number from 0 to 65535" in capsys.readouterr().err
