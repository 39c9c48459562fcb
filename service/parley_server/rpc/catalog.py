"""parley.v1.Catalog and parley.v1.Admin."""

from __future__ import annotations

from parley.v1 import admin_pb2, admin_pb2_grpc, catalog_pb2, catalog_pb2_grpc

from parley_server.core.access import AccessRole, Tenants
from parley_server.core.ports import Catalog
from parley_server.core.tenant_catalog import catalog_for
from parley_server.rpc.call import CallEnvironment, Caller, Context, NotServed, Servicer, rpc
from parley_server.rpc.to_proto import model

SERVICE = "/parley.v1.Catalog"
ADMIN_SERVICE = "/parley.v1.Admin"


class CatalogServicer(Servicer, catalog_pb2_grpc.CatalogServicer):
    """The models of the server."""

    def __init__(self, environment: CallEnvironment, catalog: Catalog, tenants: Tenants) -> None:
        super().__init__(environment)
        self._catalog = catalog
        self._tenants = tenants

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
        """Refuse: this release has no quotas."""
        raise NotServed("GetQuota is not served by this release")


class AdminServicer(Servicer, admin_pb2_grpc.AdminServicer):
    """Refuses every call: this release has no stored keys and no sums of usage."""

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
        """Refuse."""
        raise NotServed("ListUsage is not served by this release")
