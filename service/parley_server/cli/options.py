"""Reads the settings of the subcommands."""

from __future__ import annotations

import argparse
import os

from parley_server.settings import Settings, load_settings


def read_settings(options: argparse.Namespace) -> Settings:
    """The settings from the options, the environment and the configuration file. Raises SettingsError."""
    names = ("config", "listen", "database_url", "workers")
    return load_settings(os.environ, {name: getattr(options, name, None) for name in names})
