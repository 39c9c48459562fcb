"""How subcommands that call a server name it, identify themselves, and report that a call has failed."""

from __future__ import annotations

import argparse
import os
from typing import Final

from parley import ParleyError
from parley.errors import DeadlineExceeded, Unauthenticated, Unavailable

KEY_VARIABLE: Final = "PARLEY_API_KEY"


def api_key_of(options: argparse.Namespace) -> str | None:
    """The credential of `--api-key`, or else of the environment; None without one."""
    return options.api_key or os.environ.get(KEY_VARIABLE)


def problem_of(error: ParleyError, address: str) -> str:
    """One line for the operator about a call that has failed."""
    if isinstance(error, Unavailable | DeadlineExceeded) and not error.reason:
        return f"no Parley server at {address}; start one with `parley serve`"
    hint = f"; give one with --api-key or {KEY_VARIABLE}" if isinstance(error, Unauthenticated) else ""
    return f"error: {error}{hint}"
