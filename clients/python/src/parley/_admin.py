"""Calls of the Admin service. They return messages of `parley.v1` and raise a `ParleyError`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from typing import Final, Literal

from google.protobuf.timestamp_pb2 import Timestamp

from parley._connection import Connection
from parley.v1 import admin_pb2

Grouping = Literal["day", "tenant", "end_user", "model", "outcome"]

_GROUPINGS: Final = {
    name.removeprefix("GROUP_BY_").lower(): number
    for name, number in admin_pb2.ListUsageRequest.GroupBy.items()
    if number
}


class Admin:
    """Provider keys, usage and status, for operators. The calls need a credential with the role admin, except `usage`
    of the caller's own tenant or end user.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def set_provider_key(
        self, provider: str, api_key: str, *, tenant: str = "", verify: bool = False
    ) -> admin_pb2.ProviderKey:
        """Stores the key of a provider, encrypted, for a tenant, or for all tenants without their own. With `verify`,
        the server tests it with the provider first. No call returns the key: the result has its last characters.
        """
        request = admin_pb2.SetProviderKeyRequest(provider=provider, api_key=api_key, tenant=tenant, verify=verify)
        return await self._connection.call(self._connection.admin.SetProviderKey, request)

    async def provider_keys(self, *, page_size: int = 0) -> AsyncIterator[admin_pb2.ProviderKey]:
        """Returns all stored keys, each with its last characters only."""
        request = admin_pb2.ListProviderKeysRequest(page_size=page_size)
        while True:
            page = await self._connection.call(self._connection.admin.ListProviderKeys, request)
            for key in page.keys:
                yield key
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def delete_provider_key(self, provider: str, *, tenant: str = "") -> None:
        """Deletes the key of a provider for a tenant, or without a tenant the one for all."""
        request = admin_pb2.DeleteProviderKeyRequest(provider=provider, tenant=tenant)
        await self._connection.call(self._connection.admin.DeleteProviderKey, request)

    async def usage(
        self,
        *,
        start_time: datetime | None = None,
        end_time: datetime | None = None,
        group_by: Iterable[Grouping] = (),
        tenant: str = "",
        end_user: str = "",
        model: str = "",
        page_size: int = 0,
    ) -> AsyncIterator[admin_pb2.UsageRow]:
        """Returns sums of tokens, cost and outcomes of the replies that were accepted from `start_time` (by default the
        first) until before `end_time` (by default now), one row for each group. Times need a time zone.
        """
        request = admin_pb2.ListUsageRequest(
            start_time=_timestamp("start_time", start_time),
            end_time=_timestamp("end_time", end_time),
            group_by=[_grouping(name) for name in group_by],
            page_size=page_size,
            tenant=tenant,
            end_user=end_user,
            model=model,
        )
        while True:
            page = await self._connection.call(self._connection.admin.ListUsage, request)
            for row in page.rows:
                yield row
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def status(self) -> admin_pb2.GetStatusResponse:
        """Returns the state of the replica that answers, and what the database shows of all replicas."""
        return await self._connection.call(self._connection.admin.GetStatus, admin_pb2.GetStatusRequest())


def _grouping(name: str) -> admin_pb2.ListUsageRequest.GroupBy.ValueType:
    if name not in _GROUPINGS:
        raise ValueError(f"group_by: must be of {', '.join(_GROUPINGS)}, not {name}")
    return _GROUPINGS[name]


def _timestamp(name: str, time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    if time.tzinfo is None:
        raise ValueError(f"{name}: needs a time zone")
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
