"""Admin.ListUsage: analytics of replies, summed over groups."""

import asyncio

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from parley.v1 import admin_pb2, errors_pb2, resources_pb2
from parley_server.core.usage.rollup import INTERVAL_S

from tests.clock import START_US, ManualClock, until
from tests.integration.served import CANCELLED, COMPLETED, FAILED, error_reason, reason, refused
from tests.upstream import Hang, Script, done, finish, role, text, usage

Request = admin_pb2.ListUsageRequest
DAY, USER, MODEL, OUTCOME = (
    Request.GROUP_BY_DAY,
    Request.GROUP_BY_END_USER,
    Request.GROUP_BY_MODEL,
    Request.GROUP_BY_OUTCOME,
)
ANSWER = Script([role(), text("Hello"), finish(), usage(900, 100, cached=400, reasoning_tokens=60), done()])
PARTIAL = Script([role(), text("Hel"), Hang()])


async def rows(caller, *groups, **fields):
    answer = await caller.admin.ListUsage(Request(group_by=groups, **fields))
    assert not answer.next_page_token
    return list(answer.rows)


async def cancel_partial(server, upstream, caller):
    upstream.reply_next(PARTIAL)
    watch = await caller.stream().until_text("Hel")
    await server.in_time(caller.cancel(watch.reply_id))
    await server.in_time(watch.end())


@pytest.mark.parametrize("rolled", [False, True])
async def test_s1_11_rates_and_reasons_of_cancellations_and_lengths_of_partial_texts(serve, upstream, rolled):
    server = await serve(clock=ManualClock())
    ada, ben = server.caller("ada"), server.caller("ben")
    upstream.reply_with(ANSWER)
    for caller in (ada, ada, ben):
        await server.in_time(caller.stream().end())
    await cancel_partial(server, upstream, ada)
    upstream.reply_next(Script([role(), text("Hel")], framing="close"))
    await server.in_time(ben.stream().end())
    if rolled:
        await server._clock.advance(INTERVAL_S)
        await until(lambda: server.sql("SELECT count(*) FROM usage WHERE NOT rolled") == [(0,)])

    outcomes = {row.state: row for row in await rows(server, OUTCOME)}
    assert {state: row.replies for state, row in outcomes.items()} == {COMPLETED: 3, CANCELLED: 1, FAILED: 1}
    assert outcomes[CANCELLED].finish_reason == reason("CANCELLED")
    assert outcomes[FAILED].error_reason == error_reason("PROVIDER_TRUNCATED")
    assert {state: row.mean_text_length for state, row in outcomes.items()} == {COMPLETED: 5, CANCELLED: 3, FAILED: 3}
    assert [row.estimated_replies for row in outcomes.values()].count(1) == 2

    answered = outcomes[COMPLETED]
    assert (answered.prompt_tokens, answered.completion_tokens) == (2700, 300)
    assert (answered.cached_prompt_tokens, answered.reasoning_tokens) == (1200, 180)
    assert answered.cost_nano_usd == 3 * (500 * 2000 + 400 * 500 + 100 * 8000)

    [first] = await rows(server, USER, DAY, MODEL, end_user="ada")
    assert (first.day, first.end_user, first.model, first.replies) == ("2023-11-14", "ada", "test", 3)
    assert [row.end_user for row in await rows(server, USER)] == ["ada", "ben"]


async def test_pages_and_ranges(serve, upstream):
    server = await serve(clock=ManualClock())
    upstream.reply_with(ANSWER)
    for name in ("ada", "ben", "cleo"):
        await server.in_time(server.caller(name).stream().end())
        await server._clock.advance(86_400)
    found, token = [], ""
    while True:
        page = await server.admin.ListUsage(Request(group_by=[USER], page_size=1, page_token=token))
        found += [row.end_user for row in page.rows]
        token = page.next_page_token
        if not token:
            break
    assert found == ["ada", "ben", "cleo"]
    second, third = (Timestamp(seconds=START_US // 1_000_000 + days * 86_400 - 60) for days in (1, 2))
    assert [row.end_user for row in await rows(server, USER, start_time=second, end_time=third)] == ["ben"]
    assert [row.day for row in await rows(server, DAY, start_time=second)] == ["2023-11-15", "2023-11-16"]
    [whole] = await rows(server, model="test")
    assert (whole.replies, whole.day, whole.state) == (3, "", resources_pb2.Reply.STATE_UNSPECIFIED)
    assert await rows(server, model="other") == []


INVALID = [
    ({"page_size": -1}, "page_size"),
    ({"page_token": "x"}, "page_token"),
    ({"group_by": [9]}, "group_by[0]"),
    ({"start_time": Timestamp(seconds=5), "end_time": Timestamp(seconds=5)}, "end_time"),
    ({"start_time": Timestamp(nanos=-1)}, "start_time"),
    ({"tenant": "a\0"}, "tenant"),
]


@pytest.mark.parametrize(("fields", "named"), INVALID, ids=[named for _, named in INVALID])
async def test_an_invalid_question_names_its_field(server, fields, named):
    error = await refused(server.admin.ListUsage(Request(**fields)))
    assert (error.reason, error.fields) == ("INVALID_REQUEST", [named])


async def test_a_page_token_of_another_question_is_refused(server, upstream):
    upstream.reply_with(ANSWER)
    await asyncio.gather(*(server.caller(name).stream().end() for name in ("ada", "ben")))
    page = await server.admin.ListUsage(Request(group_by=[USER], page_size=1))
    for groups in ([DAY], [USER, DAY]):
        error = await refused(server.admin.ListUsage(Request(group_by=groups, page_token=page.next_page_token)))
        assert error.plain.reason == errors_pb2.ERROR_REASON_INVALID_REQUEST


async def test_extreme_times_are_ranges_without_rows(server):
    latest = Timestamp(seconds=253_402_300_799, nanos=999_999_999)
    assert await rows(server, DAY, start_time=latest) == []
    assert await rows(server, DAY, start_time=Timestamp(seconds=-62_135_596_800), end_time=latest) == []
