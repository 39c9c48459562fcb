"""`parley rotate-keys`: encrypts all stored provider keys with the newest encryption key."""

from __future__ import annotations

import argparse
import asyncio
import sys

from parley_server.cli.offline import opened_store
from parley_server.cli.options import read_settings
from parley_server.core.ports import KeyCipher, KeyStore
from parley_server.core.store_types import StoredKey
from parley_server.errors import StorageUnavailable
from parley_server.exit_status import CANNOT_RUN
from parley_server.secrets.fernet import FernetCipher
from parley_server.settings import Settings
from parley_server.store.engine.location import StoreUnusable
from parley_server.telemetry.logs import configure_logging, log_audit

SOME_LEFT = 1


def run(options: argparse.Namespace) -> int:
    """Rotate each row; the exit status: 1 if rows are left that no encryption key decrypts."""
    settings = read_settings(options)
    if not settings.encryption_keys:
        print("parley rotate-keys: PARLEY_ENCRYPTION_KEYS is not set", file=sys.stderr)
        return CANNOT_RUN
    configure_logging(settings.log_level, settings.log_format)
    try:
        rotated, unreadable = asyncio.run(_rotate(settings))
    except (StoreUnusable, StorageUnavailable) as error:
        print(f"parley rotate-keys: {error}", file=sys.stderr)
        return CANNOT_RUN
    log_audit("rotate-keys", "SOME_LEFT" if unreadable else "OK", rotated=rotated, unreadable=len(unreadable))
    print(f"{rotated} provider keys are encrypted with the newest encryption key")
    for key in unreadable:
        print(f"cannot be decrypted: {key.provider} for {key.tenant or 'all tenants'}", file=sys.stderr)
    return SOME_LEFT if unreadable else 0


async def _rotate(settings: Settings) -> tuple[int, list[StoredKey]]:
    async with opened_store(settings) as store:
        return await rotate(store, FernetCipher(settings.encryption_keys))


async def rotate(store: KeyStore, cipher: KeyCipher) -> tuple[int, list[StoredKey]]:
    """Encrypt each row with the newest key: how many, and the rows that cannot be decrypted. Rows that a server changes
    meanwhile are left alone, since it encrypts them with its own newest key."""
    rotated, unreadable = 0, []
    for key in await store.list_keys():
        try:
            token = cipher.rotate(key.token)
        except ValueError:
            unreadable.append(key)
            continue
        rotated += await store.replace_token(key, token)
    return rotated, unreadable
