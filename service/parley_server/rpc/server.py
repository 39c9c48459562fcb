"""The gRPC servers of a process: their port, services, health and reflection."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Final, cast

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from parley.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    catalog_pb2,
    catalog_pb2_grpc,
    chat_pb2,
    chat_pb2_grpc,
    conversations_pb2,
    conversations_pb2_grpc,
)

from parley_server.core.access import Tenants
from parley_server.core.conversations.service import Conversations
from parley_server.core.ports import Catalog
from parley_server.core.provider_keys import ProviderKeys
from parley_server.core.quotas.service import Quotas
from parley_server.core.replies.service import Replies
from parley_server.core.status import StatusReports
from parley_server.core.usage.reports import UsageReports
from parley_server.port import SharedPort
from parley_server.rpc.admin import AdminServicer
from parley_server.rpc.call import CallEnvironment
from parley_server.rpc.catalog import CatalogServicer
from parley_server.rpc.chat import ChatServicer
from parley_server.rpc.conversations import ConversationsServicer
from parley_server.rpc.reflection import serve_reflection
from parley_server.rpc.registrar import Registrar
from parley_server.rpc.tls import Certificates
from parley_server.rpc.transport import Options
from parley_server.settings import Address

READINESS = ("", "parley.v1.Chat")  # load balancers ask for either name
LIVENESS = "liveness"
HEALTH_LIMIT_S = 1.0
# With fewer, new callers of a busy process wait for seconds; with more, they wait no less (docs/adr/0011).
SERVERS: Final = 64


class GrpcServer:
    """Serves the contract on one port. Readiness is NOT_SERVING until `serve`, and again from `refuse` on.

    It runs several servers of grpc.aio, because each accepts one call of a method at a time (docs/adr/0011). The kernel
    distributes the connections among them. All have the same servicers, so that callers see one server.

    With `share_port`, other processes of this user may listen on the same port; without it, the port is exclusive."""

    def __init__(
        self,
        *,
        replies: Replies,
        conversations: Conversations,
        catalog: Catalog,
        tenants: Tenants,
        quotas: Quotas,
        usage_reports: UsageReports,
        provider_keys: ProviderKeys,
        status_reports: StatusReports,
        environment: CallEnvironment,
        heartbeat_s: float,
        options: Options,
        reflection: bool = True,
        share_port: bool = False,
        servers: int = SERVERS,
    ) -> None:
        self._options = options
        self._share_port = share_port
        self._count = servers
        self._environment = environment
        self._port = ExitStack()
        self._servers: list[grpc.aio.Server] = []
        self._chat = ChatServicer(environment, replies, heartbeat_s=heartbeat_s)
        self._conversations = ConversationsServicer(environment, conversations)
        self._catalog = CatalogServicer(environment, catalog, tenants, quotas)
        self._admin = AdminServicer(environment, provider_keys, usage_reports, status_reports)
        self._reflection = reflection
        self._health = health.aio.HealthServicer()

    async def listen(self, address: Address, certificates: Certificates | None = None, *, local: str = "") -> int:
        """Open the port and answer calls, still not ready. Returns the port number. Raises `OSError` if the port cannot
        be opened.

        local: the path of a Unix socket to open besides. It has no TLS, so its folder must be private."""
        held = self._port.enter_context(SharedPort(address, join=self._share_port))
        self._servers = [self._build() for _ in range(self._count)]
        try:
            # All ports are opened before any server starts, so that a failure leaves no server running.
            for server in self._servers:
                for target in held.targets:
                    _open(server, target, certificates)
            if local:
                _open(self._servers[0], f"unix:{local}", None)
        except RuntimeError as error:
            self._port.close()
            raise OSError(f"cannot listen on {address}: {error}") from error
        # Set before the first call can arrive: a probe would otherwise learn that these names do not exist.
        await self.refuse()
        await self._health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        for server in self._servers:
            await server.start()
        return held.address.port

    def _build(self) -> grpc.aio.Server:
        server = grpc.aio.server(options=self._options)
        registrar = Registrar(server, self._environment)
        methods = cast(grpc.aio.Server, registrar)  # implements the methods that generated code calls
        chat_pb2_grpc.add_ChatServicer_to_server(self._chat, methods)
        conversations_pb2_grpc.add_ConversationsServicer_to_server(self._conversations, methods)
        catalog_pb2_grpc.add_CatalogServicer_to_server(self._catalog, methods)
        admin_pb2_grpc.add_AdminServicer_to_server(self._admin, methods)
        # Health and reflection are registered directly, so that probes are neither logged nor counted.
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._reflection:
            serve_reflection(server, _services())
        registrar.refuse_unknown_methods()
        return server

    async def serve(self) -> None:
        """Set readiness to SERVING."""
        await self._set(health_pb2.HealthCheckResponse.SERVING)

    async def refuse(self) -> None:
        """Set readiness to NOT_SERVING. Calls are still answered."""
        await self._set(health_pb2.HealthCheckResponse.NOT_SERVING)

    async def stop(self, grace_s: float) -> None:
        """Accept no more calls, and end the remaining ones after `grace_s` seconds."""
        await asyncio.gather(*(server.stop(grace_s) for server in self._servers))
        self._port.close()  # held until now, so that no other program takes the port while last calls are answered

    async def _set(self, status: health_pb2.HealthCheckResponse.ServingStatus.ValueType) -> None:
        """Set readiness. The wait is limited, because a watcher that does not read blocks the lock of the health
        service."""
        for service in READINESS:
            try:
                async with asyncio.timeout(HEALTH_LIMIT_S):
                    await self._health.set(service, status)
            except TimeoutError:
                continue


def _services() -> list[str]:
    files = {chat_pb2: "Chat", conversations_pb2: "Conversations", catalog_pb2: "Catalog", admin_pb2: "Admin"}
    names = [file.DESCRIPTOR.services_by_name[name].full_name for file, name in files.items()]
    return [*names, health.SERVICE_NAME]


def _open(server: grpc.aio.Server, target: str, certificates: Certificates | None) -> None:
    """Open a port of a server. Raises RuntimeError if gRPC cannot listen there."""
    if certificates is None:
        server.add_insecure_port(target)
    else:
        server.add_secure_port(target, certificates.credentials())
