"""parley.v1.Catalog and parley.v1.Admin."""

from __future__ import annotations

from parley.v1 import admin_pb2, admin_pb2_grpc, catalog_pb2, catalog_pb2_grpc

from parley_server.core.access import AccessRole, Tenants
from parley_server.core.ports import Catalog
from parley_server.core.quotas.service import Quotas
from parley_server.core.tenant_catalog import catalog_for
from parley_server.core.usage.reports import UsageReports
from parley_server.rpc.call import CallEnvironment, Caller, Context, NotServed, Servicer, rpc
from parley_server.rpc.to_proto import model, quota_message
from parley_server.rpc.usage import usage_query, usage_response

SERVICE = "/parley.v1.Catalog"
ADMIN_SERVICE = "/parley.v1.Admin"


class CatalogServicer(Servicer, catalog_pb2_grpc.CatalogServicer):
    """The models and the limits of the caller."""

    def __init__(self, environment: CallEnvironment, catalog: Catalog, tenants: Tenants, quotas: Quotas) -> None:
        super().__init__(environment)
        self._catalog = catalog
        self._tenants = tenants
        self._quotas = quotas

    @rpc(f"{SERVICE}/ListModels")
    async def ListModels(
        self, request: catalog_pb2.ListModelsRequest, context: Context, caller: Caller
    ) -> catalog_pb2.ListModelsResponse:
        """List the models that the caller may name."""
        catalog = catalog_for(self._catalog, self._tenants.policy(caller.identity.tenant))
        return catalog_pb2.ListModelsResponse(models=[model(one) for one in catalog.models()])

    @rpc(f"{SERVICE}/GetQuota")
    async def GetQuota(
        self, request: catalog_pb2.GetQuotaRequest, context: Context, caller: Caller
    ) -> catalog_pb2.GetQuotaResponse:
        """Show the caller's limits with their use."""
        return catalog_pb2.GetQuotaResponse(quotas=map(quota_message, await self._quotas.show(caller.identity)))


class AdminServicer(Servicer, admin_pb2_grpc.AdminServicer):
    """Sums of usage. The other calls are refused: this release has no stored keys."""

    def __init__(self, environment: CallEnvironment, usage_reports: UsageReports) -> None:
        super().__init__(environment)
        self._usage_reports = usage_reports

    @rpc(f"{ADMIN_SERVICE}/SetProviderKey", role=AccessRole.ADMIN)
    async def SetProviderKey(
        self, request: admin_pb2.SetProviderKeyRequest, context: Context, caller: Caller
    ) -> admin_pb2.ProviderKey:
        """Refuse."""
        raise NotServed("SetProviderKey is not served by this release")

    @rpc(f"{ADMIN_SERVICE}/ListProviderKeys", role=AccessRole.ADMIN)
    async def ListProviderKeys(
        self, request: admin_pb2.ListProviderKeysRequest, context: Context, caller: Caller
    ) -> admin_pb2.ListProviderKeysResponse:
        """Refuse."""
        raise NotServed("ListProviderKeys is not served by this release")

    @rpc(f"{ADMIN_SERVICE}/DeleteProviderKey", role=AccessRole.ADMIN)
    async def DeleteProviderKey(
        self, request: admin_pb2.DeleteProviderKeyRequest, context: Context, caller: Caller
    ) -> admin_pb2.DeleteProviderKeyResponse:
        """Refuse."""
        raise NotServed("DeleteProviderKey is not served by this release")

    @rpc(f"{ADMIN_SERVICE}/ListUsage", role=None)
    async def ListUsage(
        self, request: admin_pb2.ListUsageRequest, context: Context, caller: Caller
    ) -> admin_pb2.ListUsageResponse:
        """Return a page of sums of usage."""
        query = usage_query(request)
        return usage_response(
            await self._usage_reports.list(caller.principal, query, request.page_size, request.page_token)
        )
