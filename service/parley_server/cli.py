"""The `parley` command: serve, chat, migrate, check."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext

from parley_server import __version__
from parley_server.settings import Settings, SettingsError, is_sqlite, load_settings, without_secrets

WRONG_CONFIGURATION = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the process's exit status. 2: the configuration, or the database as it stands, forbids it."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except SettingsError as error:
        print(error, file=sys.stderr)
        return WRONG_CONFIGURATION


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="parley", description="One AI chat engine for all your backends.")
    parser.add_argument("--version", action="version", version=f"parley {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, run, text in (
        ("serve", _serve, "run the server"),
        ("migrate", _migrate, "bring the database's schema up to date"),
        ("check", _check, "validate the configuration"),
    ):
        command = commands.add_parser(name, help=text, description=text.capitalize() + ".")
        command.add_argument("--config", metavar="FILE", help="TOML file (default: PARLEY_CONFIG)")
        command.set_defaults(run=run)
        if name == "serve":
            command.add_argument("--listen", metavar="HOST:PORT", help="gRPC address (default: 127.0.0.1:50051)")
            command.add_argument("--workers", metavar="N", help="processes on that address (default: 1)")
        if name != "check":
            command.add_argument("--database-url", metavar="URL", help="default: sqlite+aiosqlite:///parley.db")
    chat = commands.add_parser("chat", help="talk to a server in the terminal", description="Talk to a server.")
    chat.add_argument("text", nargs="*", help="ask this, print the answer and leave")
    chat.add_argument("--address", default="127.0.0.1:50051", metavar="HOST:PORT", help="default: %(default)s")
    chat.add_argument("--model", default="", metavar="ALIAS", help="default: the server's")
    chat.add_argument("--conversation", default="", metavar="ID", help="continue this conversation")
    chat.add_argument("--end-user", default="", metavar="ID", help="for whom you speak")
    chat.add_argument("--api-key", default=os.environ.get("PARLEY_API_KEY", ""), help="default: PARLEY_API_KEY")
    chat.add_argument("--reasoning", action="store_true", help="show the model's reasoning")
    chat.set_defaults(run=_chat)
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    names = ("config", "listen", "database_url", "workers")
    return load_settings(os.environ, {name: getattr(options, name, None) for name in names})


def _serve(options: argparse.Namespace) -> int:
    settings = _settings(options)
    if settings.workers > 1:
        from parley_server.workers import supervise

        return supervise(settings, config=options.config or "")
    from parley_server.serving import serve

    return serve(settings)


def _migrate(options: argparse.Namespace) -> int:
    settings = _settings(options)
    from parley_server.errors import StorageUnavailable
    from parley_server.store.engine.location import StoreUnusable, sqlite_path
    from parley_server.store.engine.lock import DatabaseLock
    from parley_server.store.migrate import SCHEMA_RELEASE, migrate

    url = settings.database_url
    try:
        with DatabaseLock(sqlite_path(url)) if is_sqlite(url) else nullcontext():
            migrate(url)
    except (StoreUnusable, StorageUnavailable) as error:
        print(f"parley migrate: {error}", file=sys.stderr)
        return WRONG_CONFIGURATION
    print(f"the schema is at release {SCHEMA_RELEASE}")
    return 0


def _check(options: argparse.Namespace) -> int:
    settings = _settings(options)
    from parley_server.errors import NotConfigured

    try:
        asyncio.run(_build_providers(settings))
    except NotConfigured as error:
        print(f"parley check: {error}", file=sys.stderr)
        return WRONG_CONFIGURATION
    count = len(settings.models)
    models = "1 model" if count == 1 else f"{count} models"
    print(f"the configuration is valid: {models}, {settings.server.default_model} by default")
    kind = "SQLite" if is_sqlite(settings.database_url) else "PostgreSQL"
    relay = f"Redis at {without_secrets(settings.redis_url)}" if settings.redis_url else "in process"
    print(f"database: {kind} at {without_secrets(settings.database_url)}; relay: {relay}; workers: {settings.workers}")
    return 0


async def _build_providers(settings: Settings) -> None:
    from parley_server.core.clock import SystemClock
    from parley_server.providers.registry import Registry

    default = settings.server.default_model
    await Registry(settings.providers, settings.models, default, clock=SystemClock()).close()


def _chat(options: argparse.Namespace) -> int:
    from parley_server.terminal import ChatOptions, chat

    return chat(
        ChatOptions(
            text=" ".join(options.text),
            address=options.address,
            model=options.model,
            conversation=options.conversation,
            end_user=options.end_user,
            api_key=options.api_key,
            reasoning=options.reasoning,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
