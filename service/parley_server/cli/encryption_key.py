"""`parley encryption-key`: prints a new key for PARLEY_ENCRYPTION_KEYS."""

from __future__ import annotations

import argparse

from parley_server.secrets.fernet import new_encryption_key


def run(_: argparse.Namespace) -> int:
    """Print a random key; the exit status."""
    print(new_encryption_key())
    return 0
