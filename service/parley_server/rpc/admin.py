"""parley.v1.Admin."""

from __future__ import annotations

from parley.v1 import admin_pb2, admin_pb2_grpc

from parley_server.core.access import AccessRole
from parley_server.core.provider_keys import ProviderKeys
from parley_server.core.status import StatusReports
from parley_server.core.store_types import KeyPlace
from parley_server.core.usage.reports import UsageReports
from parley_server.rpc.call import CallEnvironment, Caller, Context, Servicer, rpc
from parley_server.rpc.status_report import status_response
from parley_server.rpc.to_proto import provider_key
from parley_server.rpc.usage import usage_query, usage_response

SERVICE = "/parley.v1.Admin"


class AdminServicer(Servicer, admin_pb2_grpc.AdminServicer):
    """Keys of providers, sums of usage, and the state of the replica."""

    def __init__(
        self,
        environment: CallEnvironment,
        provider_keys: ProviderKeys,
        usage_reports: UsageReports,
        status_reports: StatusReports,
    ) -> None:
        super().__init__(environment)
        self._provider_keys = provider_keys
        self._usage_reports = usage_reports
        self._status_reports = status_reports

    @rpc(f"{SERVICE}/SetProviderKey", role=AccessRole.ADMIN)
    async def SetProviderKey(
        self, request: admin_pb2.SetProviderKeyRequest, context: Context, caller: Caller
    ) -> admin_pb2.ProviderKey:
        """Store a key, encrypted."""
        place = caller.target = KeyPlace(request.provider, request.tenant)
        return provider_key(await self._provider_keys.set(place, request.api_key, verify=request.verify))

    @rpc(f"{SERVICE}/ListProviderKeys", role=AccessRole.ADMIN)
    async def ListProviderKeys(
        self, request: admin_pb2.ListProviderKeysRequest, context: Context, caller: Caller
    ) -> admin_pb2.ListProviderKeysResponse:
        """Return a page of keys, without the keys themselves."""
        page = await self._provider_keys.list(request.page_size, request.page_token)
        keys = [provider_key(each) for each in page.keys]
        return admin_pb2.ListProviderKeysResponse(keys=keys, next_page_token=page.next_page_token)

    @rpc(f"{SERVICE}/DeleteProviderKey", role=AccessRole.ADMIN)
    async def DeleteProviderKey(
        self, request: admin_pb2.DeleteProviderKeyRequest, context: Context, caller: Caller
    ) -> admin_pb2.DeleteProviderKeyResponse:
        """Delete a key."""
        place = caller.target = KeyPlace(request.provider, request.tenant)
        await self._provider_keys.delete(place)
        return admin_pb2.DeleteProviderKeyResponse()

    @rpc(f"{SERVICE}/ListUsage", role=None)
    async def ListUsage(
        self, request: admin_pb2.ListUsageRequest, context: Context, caller: Caller
    ) -> admin_pb2.ListUsageResponse:
        """Return a page of sums of usage."""
        query = usage_query(request)
        return usage_response(
            await self._usage_reports.list(caller.principal, query, request.page_size, request.page_token)
        )

    @rpc(f"{SERVICE}/GetStatus", role=AccessRole.ADMIN)
    async def GetStatus(
        self, request: admin_pb2.GetStatusRequest, context: Context, caller: Caller
    ) -> admin_pb2.GetStatusResponse:
        """Show the state of this replica and of the database."""
        return status_response(await self._status_reports.read())
