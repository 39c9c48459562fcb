"""`parley erase-user`: erases everything about one end user, except log lines and sums of usage."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
from collections import Counter
from collections.abc import Sequence

from parley_server.cli.offline import opened_store
from parley_server.cli.options import read_settings
from parley_server.core.clock import SystemClock
from parley_server.core.model import FinishReason, Identity
from parley_server.core.store_types import CancelTarget
from parley_server.errors import ReplyNotFound, StorageUnavailable
from parley_server.exit_status import CANNOT_RUN
from parley_server.settings import Settings, is_sqlite
from parley_server.store import SqlStore
from parley_server.store.engine.location import StoreUnusable
from parley_server.telemetry.logs import configure_logging, log_audit

INCOMPLETE = 1
PART = 100
USAGE_PART = 1000
RUNNING_S = 10.0
LOOK_S = 0.2
KINDS = ("conversations", "replies", "request_ids", "quotas", "usage")
"""What is erased, in the order of the output; in rows of usage, the user is renamed."""


class Incomplete(Exception):
    """Part of the data is left: the command must run again. The message says what is left."""


def run(options: argparse.Namespace) -> int:
    """Erase, and print what was erased; the exit status: 1 if something is left."""
    settings = read_settings(options)
    configure_logging(settings.log_level, settings.log_format)
    name = f"erased-{secrets.token_hex(8)}"
    counts: Counter[str] = Counter()
    status, problem = 0, ""
    try:
        asyncio.run(_erase(settings, Identity(tenant=options.tenant, end_user=options.end_user), name, counts))
    except Incomplete as error:
        status, problem = INCOMPLETE, str(error)
    except (StoreUnusable, StorageUnavailable) as error:
        status, problem = CANNOT_RUN, str(error)
    if counts or status != CANNOT_RUN:
        log_audit("erase-user", "INCOMPLETE" if status else "OK", target_tenant=options.tenant, name=name, **counts)
        print("\n".join(f"{counts[kind]} {kind}" for kind in KINDS))
    if problem:
        print(f"parley erase-user: {problem}", file=sys.stderr)
    return status


async def _erase(settings: Settings, identity: Identity, name: str, counts: Counter[str]) -> None:
    async with opened_store(settings) as store:
        # On SQLite the lock shows that no server runs: what counts as running there belongs to a dead process.
        dead = is_sqlite(settings.database_url)
        # Redis comes before the database: a repeated command could not find the ids of replies whose rows are deleted.
        await _erase_in_redis(settings, await store.ended_of(identity))
        if not dead:
            await _cancel(store, identity)
            await _erase_in_redis(settings, await store.ended_of(identity))
        await _erase_conversations(store, settings, identity, counts, dead=dead)
        counts["request_ids"], counts["quotas"] = await store.forget_user(identity)
        while renamed := await store.rename_user(identity, name, USAGE_PART):
            counts["usage"] += renamed
        if await store.running_of(identity):
            raise Incomplete("replies of the user still run: run this command again")


async def _cancel(store: SqlStore, identity: Identity) -> None:
    """Cancel the user's replies, and wait until they have ended, for at most `RUNNING_S` seconds."""
    clock = SystemClock()
    until_s = clock.monotonic() + RUNNING_S
    while (running := await store.running_of(identity)) and clock.monotonic() < until_s:
        for reply_id in running:
            try:
                target = CancelTarget(reply_id=reply_id)
                await store.request_cancel(identity, target, FinishReason.CANCELLED, "user erased", clock.now_us())
            except ReplyNotFound:
                continue
        await clock.sleep(LOOK_S)


async def _erase_conversations(
    store: SqlStore, settings: Settings, identity: Identity, counts: Counter[str], *, dead: bool
) -> None:
    while (erased := await store.erase_conversations(identity, PART, running=dead)).count:
        counts["conversations"] += erased.count
        counts["replies"] += len(erased.reply_ids)
        await _erase_in_redis(settings, erased.reply_ids)


async def _erase_in_redis(settings: Settings, reply_ids: Sequence[str]) -> None:
    """Erase the replies in Redis and in the memory of the servers. Raises `Incomplete`."""
    if settings.redis_url is None:
        return
    from parley_server.relay.erasure import erase_replies  # a server without Redis need not have its client loaded
    from parley_server.relay.redis_check import RelayUnusable
    from parley_server.relay.redis_pipeline import RelayAway

    try:
        await erase_replies(settings.redis_url, reply_ids)
    except (RelayAway, RelayUnusable) as error:
        raise Incomplete(f"Redis cannot be used, run this command again when it can: {error}") from error
