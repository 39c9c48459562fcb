"""`parley usage`: shows tokens and cost of replies, summed by groups, as a client of `Admin.ListUsage`."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from parley import Backoff, Client, ParleyError
from parley.v1 import admin_pb2, errors_pb2, resources_pb2

from parley_server.cli.columns import aligned
from parley_server.cli.models_table import NANO_USD
from parley_server.cli.reach import api_key_of, credentials_of, problem_of

REFUSED: Final = 1
PAGE_SIZE: Final = 1000
COUNTS: Final = ("replies", "prompt_tokens", "cached_prompt_tokens", "completion_tokens")
COUNT_HEADS: Final = ("replies", "prompt", "cached", "completion", "US dollars", "unpriced")
OUTCOME_FIELDS: Final = ("state", "finish_reason", "error_reason")


def run(options: argparse.Namespace) -> int:
    """Print a table with its sum, or with `--json` an array of rows; the exit status."""
    try:
        rows = asyncio.run(_rows(options))
    except ParleyError as error:
        return _refused(problem_of(error, options.server))
    except (OSError, ValueError) as error:
        return _refused(str(error))
    if options.json:
        print(json.dumps([object_of(row, options.by) for row in rows], indent=2))
    else:
        print("\n".join(table_of(rows, options.by)))
    return 0


def _refused(problem: str) -> int:
    print(f"parley usage: {problem}", file=sys.stderr)
    return REFUSED


async def _rows(options: argparse.Namespace) -> list[admin_pb2.UsageRow]:
    once = Backoff(max_elapsed_s=0.0)  # an absent server is reported without retries
    async with Client(options.server, api_key=api_key_of(options), tls=credentials_of(options), backoff=once) as client:
        found = client.admin.usage(
            start_time=options.since,
            end_time=options.until,
            group_by=options.by,
            tenant=options.tenant,
            model=options.model,
            page_size=PAGE_SIZE,
        )
        return [row async for row in found]


def table_of(rows: Sequence[admin_pb2.UsageRow], groups: Sequence[str]) -> list[str]:
    """The lines of a table: a head, each row, and the sum of several rows. Groups are left-aligned, numbers right."""
    cells = [(*groups, *COUNT_HEADS), *((*_names(row, groups), *_numbers([row])) for row in rows)]
    if len(rows) > 1:
        blanks = ("",) * (len(groups) - 1)
        cells.append(("sum", *blanks, *_numbers(rows)))
    return aligned(cells, right=len(COUNT_HEADS))


def object_of(row: admin_pb2.UsageRow, groups: Iterable[str]) -> dict[str, Any]:
    """The row as JSON: the fields of the groups, then all others. Times are in milliseconds, cost in billionths of a US
    dollar."""
    shown = [name for group in groups for name in (OUTCOME_FIELDS if group == "outcome" else (group,))]
    names = {"day", "tenant", "end_user", "model", *OUTCOME_FIELDS}
    fields = row.DESCRIPTOR.fields_by_name
    return {name: _value(row, field) for name, field in fields.items() if name in shown or name not in names}


def _value(row: admin_pb2.UsageRow, field: FieldDescriptor) -> Any:
    value = getattr(row, field.name)
    if field.enum_type is None:
        return value
    name = field.enum_type.values_by_number[value].name
    return "" if not value else _word(name, field.enum_type.values_by_number[0].name)


def _names(row: admin_pb2.UsageRow, groups: Sequence[str]) -> tuple[str, ...]:
    return tuple(_outcome(row) if group == "outcome" else getattr(row, group) or "-" for group in groups)


def _outcome(row: admin_pb2.UsageRow) -> str:
    words = [_word(resources_pb2.Reply.State.Name(row.state), "STATE_UNSPECIFIED")]
    if row.error_reason:
        words.append(_word(errors_pb2.ErrorReason.Name(row.error_reason), "ERROR_REASON_UNSPECIFIED"))
    elif row.finish_reason:
        words.append(_word(resources_pb2.FinishReason.Name(row.finish_reason), "FINISH_REASON_UNSPECIFIED"))
    return " ".join(words)


def _word(name: str, zero: str) -> str:
    """The name of an enum's value without the prefix that it shares with the value 0."""
    return name.removeprefix(zero.removesuffix("UNSPECIFIED"))


def _numbers(rows: Sequence[admin_pb2.UsageRow]) -> tuple[str, ...]:
    counts = [f"{sum(getattr(row, name) for row in rows):,}" for name in COUNTS]
    cost = Decimal(sum(row.cost_nano_usd for row in rows)) / NANO_USD
    return (*counts, f"{cost:,.4f}", f"{sum(row.unpriced_replies for row in rows):,}")
