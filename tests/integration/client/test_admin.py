"""The Admin calls of the Python client: requests, pages and wrong arguments."""

from datetime import UTC, datetime

import parley
import pytest
from parley.v1 import admin_pb2

from tests.scripted_server import running

START = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture
async def server():
    async with running() as scripted:
        yield scripted


@pytest.fixture
async def admin(server):
    async with parley.Client(server.address, api_key="admin") as client:
        yield client.admin


async def test_a_provider_key_is_stored_and_deleted(server, admin):
    stored = admin_pb2.ProviderKey(provider="openai", tenant="shop", hint="wxyz")
    server.unary |= {"SetProviderKey": [stored], "DeleteProviderKey": [admin_pb2.DeleteProviderKeyResponse()]}
    assert await admin.set_provider_key("openai", "a-key-wxyz", tenant="shop", verify=True) == stored
    await admin.delete_provider_key("openai", tenant="shop")
    assert [call.request for call in server.calls] == [
        admin_pb2.SetProviderKeyRequest(provider="openai", api_key="a-key-wxyz", tenant="shop", verify=True),
        admin_pb2.DeleteProviderKeyRequest(provider="openai", tenant="shop"),
    ]


async def test_provider_keys_are_read_from_all_pages(server, admin):
    keys = [admin_pb2.ProviderKey(provider=f"p{i}") for i in range(3)]
    server.unary["ListProviderKeys"] = [
        admin_pb2.ListProviderKeysResponse(keys=keys[:2], next_page_token="more"),
        admin_pb2.ListProviderKeysResponse(keys=keys[2:]),
    ]
    assert [key async for key in admin.provider_keys(page_size=2)] == keys
    assert [(call.request.page_size, call.request.page_token) for call in server.calls] == [(2, ""), (2, "more")]


async def test_usage_is_read_from_all_pages_with_the_same_filters(server, admin):
    rows = [admin_pb2.UsageRow(day=f"2026-11-0{i}", model="fast", replies=i) for i in (1, 2)]
    server.unary["ListUsage"] = [
        admin_pb2.ListUsageResponse(rows=rows[:1], next_page_token="more"),
        admin_pb2.ListUsageResponse(rows=rows[1:]),
    ]
    found = admin.usage(start_time=START, group_by=["day", "model"], tenant="shop", end_user="ada", model="fast")
    assert [row async for row in found] == rows
    first, second = (call.request for call in server.calls)
    groups = admin_pb2.ListUsageRequest.GroupBy
    assert list(first.group_by) == [groups.GROUP_BY_DAY, groups.GROUP_BY_MODEL]
    assert first.start_time.ToDatetime(UTC) == START
    assert not first.HasField("end_time")
    assert (first.tenant, first.end_user, first.model) == ("shop", "ada", "fast")
    first.page_token = "more"
    assert first == second


async def test_the_status_is_read(server, admin):
    status = admin_pb2.GetStatusResponse(problems=["no replica holds a lease"])
    server.unary["GetStatus"] = [status]
    assert await admin.status() == status
    assert [call.request for call in server.calls] == [admin_pb2.GetStatusRequest()]


@pytest.mark.parametrize("fields", [{"group_by": ["week"]}, {"start_time": datetime(2026, 11, 1)}])  # noqa: DTZ001 - the fault
async def test_wrong_arguments_are_refused_before_a_call(server, admin, fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        await anext(admin.usage(**fields))
    assert server.calls == []
