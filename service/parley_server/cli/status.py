"""`parley status`: shows the replicas, running replies and quotas, from the database or from a replica.

It writes nothing, so that it may run beside a server.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from google.protobuf.json_format import MessageToJson
from parley import Backoff, Client, ParleyError
from parley.v1 import admin_pb2

from parley_server.cli.options import read_settings
from parley_server.cli.reach import api_key_of, credentials_of, problem_of
from parley_server.cli.status_table import lines_of
from parley_server.core.access import tenants_of
from parley_server.core.clock import SystemClock
from parley_server.core.quotas.rules import QuotaRules
from parley_server.core.status import database_state, status_of
from parley_server.exit_status import CANNOT_RUN
from parley_server.rpc.status_report import status_response
from parley_server.settings import Settings, is_sqlite
from parley_server.store import open_store
from parley_server.store.engine.location import StoreUnusable, sqlite_path

PROBLEMS = 1
ANSWER_S = 15.0


def run(options: argparse.Namespace) -> int:
    """Print the status; the exit status: 0 without problems, 1 with problems, 2 without an answer."""
    try:
        asked = _of_server(options) if options.server else _of_database(read_settings(options))
        status = asyncio.run(asked)
    except ParleyError as error:
        return _unknown(problem_of(error, options.server))
    except (StoreUnusable, OSError, ValueError) as error:
        return _unknown(str(error))
    if options.json:
        print(MessageToJson(status, always_print_fields_with_no_presence=True, preserving_proto_field_name=True))
    else:
        print("\n".join(lines_of(status)))
    return PROBLEMS if status.problems else 0


def _unknown(problem: str) -> int:
    print(f"parley status: {problem}", file=sys.stderr)
    return CANNOT_RUN


async def _of_server(options: argparse.Namespace) -> admin_pb2.GetStatusResponse:
    """What the replica answers. Raises `ParleyError`, ValueError, and OSError for a file of `options`."""
    async with Client(
        options.server,
        api_key=api_key_of(options),
        tls=credentials_of(options),
        backoff=Backoff(max_elapsed_s=0.0),  # an absent server is reported without retries
        call_timeout_s=ANSWER_S,
    ) as client:
        return await client.admin.status()


async def _of_database(settings: Settings) -> admin_pb2.GetStatusResponse:
    """What the database shows. Raises `StoreUnusable`."""
    sqlite, clock = is_sqlite(settings.database_url), SystemClock()
    if sqlite and not sqlite_path(settings.database_url).exists():
        raise StoreUnusable(f"there is no database at {sqlite_path(settings.database_url)}")
    rules = QuotaRules(tenants_of(settings.tenants), output_tokens=settings.server.hold_output_tokens)
    store = open_store(settings.database_url)
    try:
        await store.start()
        found = await database_state(store, rules, clock, kind="SQLite" if sqlite else "PostgreSQL")
    finally:
        await store.close()
    return status_response(status_of(None, found, time_limit_s=settings.server.time_limit_s))
