"""What the subcommands share: settings from the command line, and the exit status of a refusal."""

from __future__ import annotations

import argparse
import os

from parley_server.settings import Settings, load_settings

WRONG_CONFIGURATION = 2
"""Exit status: the configuration, or the state of the database, forbids the command."""


def read_settings(options: argparse.Namespace) -> Settings:
    """The settings from the options, the environment and the configuration file. Raises SettingsError."""
    names = ("config", "listen", "database_url", "workers")
    return load_settings(os.environ, {name: getattr(options, name, None) for name in names})
