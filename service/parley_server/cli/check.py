"""`parley check`: validates the configuration and prints a summary of it; with `--connect`, it also asks whatever a
server connects to."""

from __future__ import annotations

import argparse
import asyncio
import sys

from parley_server.cli.columns import aligned
from parley_server.cli.connections import Finding, check_connections
from parley_server.cli.models_table import retirement_of, table_of
from parley_server.cli.options import read_settings
from parley_server.core.clock import SystemClock
from parley_server.core.model import Model
from parley_server.errors import NotConfigured
from parley_server.exit_status import CANNOT_RUN
from parley_server.providers.registry import Registry
from parley_server.settings import Settings, is_sqlite, without_secrets

FAULTS = 1


def run(options: argparse.Namespace) -> int:
    """Print what is configured, and with `--connect` what answers; the exit status: 1 if something cannot be used."""
    settings = read_settings(options)
    try:
        models = asyncio.run(_models(settings))
    except NotConfigured as error:
        print(f"parley check: {error}", file=sys.stderr)
        return CANNOT_RUN
    count = len(settings.models)
    counted = "1 model" if count == 1 else f"{count} models"
    print(f"the configuration is valid: {counted}, {settings.server.default_model} by default")
    kind = "SQLite" if is_sqlite(settings.database_url) else "PostgreSQL"
    relay = f"Redis at {without_secrets(settings.redis_url)}" if settings.redis_url else "in process"
    print(f"database: {kind} at {without_secrets(settings.database_url)}; relay: {relay}; workers: {settings.workers}")
    print(_access(settings))
    print("\n".join(models))
    return _connect(settings) if options.connect else 0


def _connect(settings: Settings) -> int:
    """Ask the database, Redis, providers and issuers, print all answers, and return the exit status."""
    found = asyncio.run(check_connections(settings))
    print()
    print("\n".join(aligned([_row(finding) for finding in found])))
    return FAULTS if any(finding.fault for finding in found) else 0


def _row(finding: Finding) -> tuple[str, ...]:
    return "fault" if finding.fault else "ok", f"{finding.took_s * 1000:.0f} ms", finding.name, finding.text


def _unlimited_costs(settings: Settings, models: list[Model]) -> list[str]:
    """Lines about tenants whose quotas of cost do not limit models without prices."""
    unpriced = {model.alias for model in models if None in (model.prices.prompt, model.prices.completion)}
    lines = []
    for name, tenant in settings.tenants.items():
        quotas = (tenant.quotas, tenant.totals)
        limited = any(each.cost_per_day is not None or each.cost_per_month is not None for each in quotas)
        free = sorted(unpriced.intersection(tenant.models or unpriced))
        if free and limited:
            lines.append(
                f"warning: tenants.{name}: its quotas of cost do not limit models without prices: {', '.join(free)}"
            )
    return lines


def _access(settings: Settings) -> str:
    if settings.is_open:
        return "access: open, every caller is accepted"
    tokens = f"; tokens of {', '.join(settings.identity)}" if settings.identity else ""
    return f"access: tenants {', '.join(settings.tenants)}{tokens}"


async def _models(settings: Settings) -> list[str]:
    """Lines about the models. Raises `NotConfigured`."""
    clock = SystemClock()
    registry = Registry(settings.providers, settings.models, settings.server.default_model, clock=clock)
    try:
        warnings = [retirement_of(model, clock.now_us()) for model in registry.retiring()]
        return [*table_of(registry.models()), *warnings, *_unlimited_costs(settings, registry.models())]
    finally:
        await registry.close()
