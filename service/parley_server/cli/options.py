"""Reads the settings of the subcommands."""

from __future__ import annotations

import argparse
import os
from typing import Final

from parley_server.settings import Address, Settings, SettingsSource, load_settings

PAGE_HOST: Final = "127.0.0.1"
PAGE_PORT: Final = 8080


def read_settings(options: argparse.Namespace) -> Settings:
    """The settings from the options, the environment and the configuration file. Raises SettingsError."""
    names = ("config", "listen", "database_url", "workers")
    given = {name: getattr(options, name, None) for name in names}
    port = getattr(options, "ui_port", None)
    if port is not None:
        given["ui_listen"] = f"{PAGE_HOST}:{port}"
    settings = load_settings(os.environ, given)
    if getattr(options, "ui", False) and settings.ui_listen is None:
        return settings.model_copy(update={"ui_listen": Address(host=PAGE_HOST, port=PAGE_PORT)})
    return settings


def settings_source(options: argparse.Namespace) -> SettingsSource:
    """Where `read_settings` reads."""
    path = options.config or os.environ.get("PARLEY_CONFIG") or ""
    return SettingsSource(lambda: read_settings(options), path)
