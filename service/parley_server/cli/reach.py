"""How subcommands that call a server name it, identify themselves, and report that a call has failed."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Final

import grpc
from parley import ParleyError
from parley.errors import DeadlineExceeded, Unauthenticated, Unavailable

KEY_VARIABLE: Final = "PARLEY_API_KEY"


def api_key_of(options: argparse.Namespace) -> str | None:
    """The credential of `--api-key`, or else of the environment; None without one."""
    return options.api_key or os.environ.get(KEY_VARIABLE)


def credentials_of(options: argparse.Namespace) -> bool | grpc.ChannelCredentials:
    """The argument `tls` of a client. Raises ValueError for options that need each other, OSError for their files."""
    if (options.certificate is None) != (options.key is None):
        raise ValueError("--certificate and --key need each other")
    if options.ca is None and options.certificate is None:
        return bool(options.tls)
    return grpc.ssl_channel_credentials(_content(options.ca), _content(options.key), _content(options.certificate))


def _content(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()


def problem_of(error: ParleyError, address: str) -> str:
    """One line for the operator about a call that has failed."""
    if isinstance(error, Unavailable | DeadlineExceeded) and not error.reason:
        return f"no Parley server at {address}; start one with `parley serve`"
    hint = f"; give one with --api-key or {KEY_VARIABLE}" if isinstance(error, Unauthenticated) else ""
    return f"error: {error}{hint}"
