"""parley.v1.Catalog."""

from __future__ import annotations

from parley.v1 import catalog_pb2, catalog_pb2_grpc

from parley_server.core.access import Tenants
from parley_server.core.ports import Catalog
from parley_server.core.quotas.service import Quotas
from parley_server.core.tenant_catalog import catalog_for
from parley_server.rpc.call import CallEnvironment, Caller, Context, Servicer, rpc
from parley_server.rpc.to_proto import model, quota_message

SERVICE = "/parley.v1.Catalog"


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
