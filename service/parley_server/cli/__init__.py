"""The `parley` command. Each subcommand is a module of this package with a function `run`.

A module is imported only when its subcommand runs, so that `migrate` or `chat` does not load the server.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from parley_server import __version__
from parley_server.exit_status import CANNOT_RUN
from parley_server.settings import SettingsError

GROUPINGS: Final = ("tenant", "day", "model", "end_user", "outcome")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand and return the exit status; 2 if the configuration or the state of the database forbids it."""
    options = _parser().parse_args(arguments)
    command = importlib.import_module(f"parley_server.cli.{options.command.replace('-', '_')}")
    try:
        return int(command.run(options))
    except SettingsError as error:
        print(error, file=sys.stderr)
        return CANNOT_RUN


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="parley", description="One AI chat engine for all your backends.")
    parser.add_argument("--version", action="version", version=f"parley {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for name, text in (
        ("serve", "run the server"),
        ("migrate", "bring the database's schema up to date"),
        ("check", "validate the configuration"),
        ("rotate-keys", "encrypt stored provider keys with the newest encryption key"),
    ):
        command = commands.add_parser(name, help=text, description=text.capitalize() + ".")
        command.add_argument("--config", metavar="FILE", help="TOML file (default: PARLEY_CONFIG)")
        if name == "serve":
            command.add_argument("--listen", metavar="HOST:PORT", help="gRPC address (default: 127.0.0.1:50051)")
            command.add_argument("--workers", metavar="N", help="processes on that address (default: 1)")
            page = "serve a chat page, too; it needs parley-server[ui]"
            command.add_argument("--ui", action="store_true", help=page)
            command.add_argument(
                "--ui-port", metavar="PORT", type=_port, help="of the chat page on 127.0.0.1 (default: 8080)"
            )
        if name == "check":
            connect = "also ask the database, Redis, the providers and the issuers of tokens"
            command.add_argument("--connect", action="store_true", help=connect)
        command.add_argument("--database-url", metavar="URL", help="default: sqlite+aiosqlite:///parley.db")
    text = "erase everything about one end user, except log lines and sums of usage"
    erase = commands.add_parser("erase-user", help=text, description=text.capitalize() + ".")
    erase.add_argument("end_user", metavar="USER", type=_not_empty)
    erase.add_argument("--tenant", required=True, metavar="T", type=_not_empty)
    erase.add_argument("--config", metavar="FILE", help="TOML file (default: PARLEY_CONFIG)")
    erase.add_argument("--database-url", metavar="URL", help="default: sqlite+aiosqlite:///parley.db")
    _add_usage(commands)
    _add_status(commands)
    text = "copy a SQLite database, also while a server uses it"
    backup = commands.add_parser("backup", help=text, description=text.capitalize() + ".")
    backup.add_argument("file", metavar="FILE", type=Path, help="a new file; an existing one is not overwritten")
    backup.add_argument("--config", metavar="FILE", help="TOML file (default: PARLEY_CONFIG)")
    backup.add_argument("--database-url", metavar="URL", help="default: sqlite+aiosqlite:///parley.db")
    text = "print a new key for PARLEY_ENCRYPTION_KEYS"
    commands.add_parser("encryption-key", help=text, description=text.capitalize() + ".")
    text = "show what the model is shown in a conversation's next turn"
    prompt = commands.add_parser("prompt", help=text, description=text.capitalize() + ".")
    prompt.add_argument("conversation", metavar="CONVERSATION_ID")
    prompt.add_argument(
        "--tenant", default="default", metavar="T", help="the conversation's tenant (default: %(default)s)"
    )
    prompt.add_argument("--model", default="", metavar="ALIAS", help="default: the conversation's")
    prompt.add_argument("--text", default="", metavar="MSG", help="as if the user had sent this message")
    prompt.add_argument("--body", action="store_true", help="print the request to the provider, without its key")
    prompt.add_argument("--config", metavar="FILE", help="TOML file (default: PARLEY_CONFIG)")
    prompt.add_argument("--database-url", metavar="URL", help="default: sqlite+aiosqlite:///parley.db")
    chat = commands.add_parser("chat", help="talk to a server in the terminal", description="Talk to a server.")
    chat.add_argument("text", nargs="*", help="send this message, print the answer and exit")
    chat.add_argument("--address", default="127.0.0.1:50051", metavar="HOST:PORT", help="default: %(default)s")
    chat.add_argument("--model", default="", metavar="ALIAS", help="default: the server's")
    chat.add_argument("--conversation", default="", metavar="ID", help="continue this conversation")
    chat.add_argument("--end-user", default="", metavar="ID", help="the end user to act for")
    # The variable is preferable: other users of the machine can read the arguments of a process.
    chat.add_argument("--api-key", default="", metavar="KEY", help="default: the variable PARLEY_API_KEY")
    chat.add_argument("--reasoning", action="store_true", help="show the model's reasoning")
    return parser


def _add_usage(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "show tokens and cost, summed by tenant, day, model, end user or outcome"
    usage = commands.add_parser("usage", help=text, description=text.capitalize() + ".")
    usage.add_argument(
        "--by",
        default=("tenant", "day"),
        type=_groupings,
        metavar="GROUPS",
        help="of tenant, day, model, end_user and outcome, with commas between them (default: tenant,day)",
    )
    usage.add_argument("--since", type=_time, metavar="DATE", help="replies accepted at DATE or later (UTC)")
    usage.add_argument("--until", type=_time, metavar="DATE", help="replies accepted before DATE (UTC)")
    usage.add_argument("--tenant", default="", metavar="T", help="this tenant alone")
    usage.add_argument("--model", default="", metavar="ALIAS", help="this model alone")
    usage.add_argument("--json", action="store_true", help="print the rows as JSON, with the exact cost")
    usage.add_argument("--server", default="127.0.0.1:50051", metavar="HOST:PORT", help="default: %(default)s")
    _add_connection(usage)


def _groupings(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip().replace("-", "_") for name in text.split(",")))
    if unknown := [name for name in names if name not in GROUPINGS]:
        raise argparse.ArgumentTypeError(f"must be of {', '.join(GROUPINGS)}, not {unknown[0]!r}")
    return names


def _time(text: str) -> datetime.datetime:
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError("must be a date such as 2026-11-01, or a time in ISO 8601") from error
    return time if time.tzinfo else time.replace(tzinfo=datetime.UTC)


def _add_status(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "show the state of the replicas; the exit status is 1 if something needs attention"
    status = commands.add_parser("status", help=text, description=text.capitalize() + ".")
    status.add_argument("--json", action="store_true", help="print the message GetStatusResponse as JSON")
    status.add_argument("--config", metavar="FILE", help="TOML file (default: PARLEY_CONFIG)")
    status.add_argument("--database-url", metavar="URL", help="default: sqlite+aiosqlite:///parley.db")
    server = "ask this replica, in place of the database"
    status.add_argument("--server", default="", metavar="HOST:PORT", help=server)
    _add_connection(status)


def _add_connection(command: argparse.ArgumentParser) -> None:
    """Add what `cli.reach` reads."""
    command.add_argument("--api-key", default="", metavar="KEY", help="default: the variable PARLEY_API_KEY")
    command.add_argument("--tls", action="store_true", help="use TLS with the machine's authorities")
    command.add_argument("--ca", metavar="FILE", type=Path, help="use TLS with the authorities of this PEM file")
    command.add_argument("--certificate", metavar="FILE", type=Path, help="client certificate with its chain (PEM)")
    command.add_argument("--key", metavar="FILE", type=Path, help="private key of the client certificate (PEM)")


def _not_empty(text: str) -> str:
    # Without an end user, a query finds the data of the whole tenant.
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text) <= 65_535):
        raise argparse.ArgumentTypeError("must be a number from 0 to 65535")
    return int(text)
