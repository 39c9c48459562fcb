"""`parley check`: validates the configuration and prints a summary of it."""

from __future__ import annotations

import argparse
import asyncio
import sys

from parley_server.cli.options import read_settings
from parley_server.core.clock import SystemClock
from parley_server.errors import NotConfigured
from parley_server.exit_status import CANNOT_RUN
from parley_server.providers.registry import Registry
from parley_server.settings import Settings, is_sqlite, without_secrets


def run(options: argparse.Namespace) -> int:
    """Build the providers, without calling them, and print what is configured; the exit status."""
    settings = read_settings(options)
    try:
        asyncio.run(_build_providers(settings))
    except NotConfigured as error:
        print(f"parley check: {error}", file=sys.stderr)
        return CANNOT_RUN
    count = len(settings.models)
    models = "1 model" if count == 1 else f"{count} models"
    print(f"the configuration is valid: {models}, {settings.server.default_model} by default")
    kind = "SQLite" if is_sqlite(settings.database_url) else "PostgreSQL"
    relay = f"Redis at {without_secrets(settings.redis_url)}" if settings.redis_url else "in process"
    print(f"database: {kind} at {without_secrets(settings.database_url)}; relay: {relay}; workers: {settings.workers}")
    return 0


async def _build_providers(settings: Settings) -> None:
    default = settings.server.default_model
    await Registry(settings.providers, settings.models, default, clock=SystemClock()).close()
