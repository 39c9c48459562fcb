"""parley.v1.Catalog, and refusals for the RPCs that this release does not serve."""

from __future__ import annotations

import grpc
from parley.v1 import admin_pb2_grpc, catalog_pb2, catalog_pb2_grpc

from parley_server.core.ports import Catalog
from parley_server.rpc.call import CallEnvironment, Caller, Context, Servicer, rpc
from parley_server.rpc.to_proto import model

SERVICE = "/parley.v1.Catalog"


class CatalogServicer(Servicer, catalog_pb2_grpc.CatalogServicer):
    """The models of the server."""

    def __init__(self, environment: CallEnvironment, catalog: Catalog) -> None:
        super().__init__(environment)
        self._catalog = catalog

    @rpc(f"{SERVICE}/ListModels")
    async def ListModels(
        self, request: catalog_pb2.ListModelsRequest, context: Context, caller: Caller
    ) -> catalog_pb2.ListModelsResponse:
        """List all models of the catalog."""
        return catalog_pb2.ListModelsResponse(models=[model(one) for one in self._catalog.models()])

    async def GetQuota(self, request: catalog_pb2.GetQuotaRequest, context: Context) -> catalog_pb2.GetQuotaResponse:
        """Refuse: this release has no quotas."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "GetQuota is not served by this release: it has no quotas")
        raise AssertionError("abort always raises")


class AdminServicer(admin_pb2_grpc.AdminServicer):
    """Refuses every call: this release has no credentials and no stored keys."""

    async def _refuse(self, request: object, context: Context) -> None:
        await context.abort(
            grpc.StatusCode.UNIMPLEMENTED,
            "Admin is not served by this release: it has no credentials and no stored keys",
        )

    SetProviderKey = _refuse  # type: ignore[assignment]  # one refusal for all
    ListProviderKeys = _refuse  # type: ignore[assignment]  # as above
    DeleteProviderKey = _refuse  # type: ignore[assignment]  # as above
    ListUsage = _refuse  # type: ignore[assignment]  # as above
