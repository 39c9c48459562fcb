"""`parley usage` against a server: its table, its JSON, its filters, and its errors."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from parley.v1 import admin_pb2
from parley_server.cli import main
from parley_server.cli.usage import table_of

from tests.clock import ManualClock
from tests.integration.served import Server, tenant
from tests.ports import free_port
from tests.upstream import Script, Upstream, done, finish, refusal, role, text, usage

ANSWER = Script([role(), text("Hello"), finish(), usage(900_000, 100_000, cached=400_000), done()])
DAY_S = 86_400.0
ACCESS = tenant("shop", "key-of-shop") + tenant("bank", "key-of-bank") + tenant("ops", "key-of-ops", roles=["admin"])
BOTH_DAYS = """\
tenant  day         replies     prompt   cached  completion  US dollars  unpriced
bank    2023-11-15        1    900,000  400,000     100,000      2.0000         0
shop    2023-11-14        2  1,800,000  800,000     200,000      4.0000         0
sum                       3  2,700,000  1,200,000     300,000      6.0000         0
"""


@pytest.fixture
async def server(serve: Any, upstream: Upstream) -> Server:
    """Ada of the shop has two answers of the first day, ben of the bank one of the second."""
    running: Server = await serve(clock=ManualClock(), access=ACCESS)
    upstream.reply_with(ANSWER)
    ada, ben = (running.caller(user, bearer=key) for user, key in (("ada", "key-of-shop"), ("ben", "key-of-bank")))
    for caller in (ada, ada):
        await running.in_time(caller.stream().end())
    await running.leap(DAY_S)
    await running.in_time(ben.stream().end())
    return running


@pytest.fixture
def run(server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command for the operators; returns its exit status, output and errors."""
    monkeypatch.setenv("PARLEY_API_KEY", "key-of-ops")

    async def command(*words: str, address: str = "") -> tuple[int, str, str]:
        arguments = ["usage", "--server", address or f"127.0.0.1:{server.app.port}", *words]
        status = await asyncio.to_thread(main, arguments)
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return command


async def test_the_table_has_a_row_for_each_group_and_the_sum(run: Any) -> None:
    status, shown, _ = await run()
    assert status == 0
    assert [line.split() for line in shown.splitlines()] == [line.split() for line in BOTH_DAYS.splitlines()]
    assert len({len(line) for line in shown.splitlines()}) == 1, "the columns are aligned"


async def test_json_has_exact_numbers_and_the_fields_of_the_groups(
    run: Any, server: Server, upstream: Upstream
) -> None:
    upstream.reply_next(refusal(400))
    await server.in_time(server.caller("ada", bearer="key-of-shop").stream().end())
    status, shown, _ = await run("--by", "outcome,end-user", "--tenant", "shop", "--json")
    assert status == 0
    completed, failed = sorted(json.loads(shown), key=lambda row: row["state"])
    assert (completed["end_user"], completed["state"], completed["finish_reason"]) == ("ada", "COMPLETED", "STOP")
    assert (completed["replies"], completed["cost_nano_usd"], completed["error_reason"]) == (2, 4_000_000_000, "")
    assert (failed["state"], failed["error_reason"]) == ("FAILED", "PROVIDER_REJECTED")
    assert not {"day", "tenant", "model"} & completed.keys()


async def test_a_range_of_dates_and_a_model_select_replies(run: Any) -> None:
    for words, tenants in (
        (("--since", "2023-11-15"), ["bank"]),
        (("--until", "2023-11-15"), ["shop"]),
        (("--since", "2023-11-14T00:00:00Z", "--until", "2023-11-16", "--model", "test"), ["bank", "shop"]),
        (("--model", "other"), []),
    ):
        _, shown, _ = await run("--by", "tenant", "--json", *words)
        assert [row["tenant"] for row in json.loads(shown)] == tenants, words


async def test_a_tenant_sees_its_own_usage_alone(run: Any) -> None:
    _, shown, _ = await run("--by", "tenant", "--api-key", "key-of-shop", "--json")
    assert [row["tenant"] for row in json.loads(shown)] == ["shop"]
    status, shown, problem = await run("--by", "tenant", "--api-key", "key-of-shop", "--tenant", "bank")
    assert (status, shown) == (1, "")
    assert "FORBIDDEN" in problem or "tenant" in problem


async def test_problems_are_one_line_and_status_1(run: Any) -> None:
    status, _, problem = await run("--api-key", "wrong")
    assert status == 1
    assert problem.endswith("give one with --api-key or PARLEY_API_KEY\n")
    gone = f"127.0.0.1:{free_port()}"
    status, _, problem = await run(address=gone)
    assert (status, problem) == (1, f"parley usage: no Parley server at {gone}; start one with `parley serve`\n")


async def test_files_for_tls_are_checked_before_a_call(run: Any) -> None:
    status, _, problem = await run("--certificate", "client.crt")
    assert (status, problem) == (1, "parley usage: --certificate and --key need each other\n")
    status, _, problem = await run("--ca", "missing.pem")
    assert (status, "missing.pem" in problem) == (1, True)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--by", "week"], "must be of tenant, day, model, end_user, outcome, not 'week'"),
        (["--since", "yesterday"], "must be a date such as 2026-11-01, or a time in ISO 8601"),
    ],
)
def test_wrong_arguments_are_refused_before_a_call(
    words: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["usage", *words])
    assert problem in capsys.readouterr().err


def test_one_row_has_no_sum_and_no_row_has_a_head() -> None:
    row = admin_pb2.UsageRow(day="2026-11-30", replies=1, cost_nano_usd=60_000, unpriced_replies=1)
    _, only = table_of([row], ["day"])
    assert only.split() == ["2026-11-30", "1", "0", "0", "0", "0.0001", "1"]
    assert table_of([], ["day"]) == ["day  replies  prompt  cached  completion  US dollars  unpriced"]
