"""The gRPC server: its options, its services, health and reflection."""

from __future__ import annotations

import asyncio
import ssl
from typing import cast

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

from parley_server.core.conversations import Conversations
from parley_server.core.engine import Catalog
from parley_server.core.replies import Replies
from parley_server.rpc.calls import Edge
from parley_server.rpc.catalog import AdminServicer, CatalogServicer
from parley_server.rpc.chat import ChatServicer
from parley_server.rpc.conversations import ConversationsServicer
from parley_server.rpc.http2 import Http2Server
from parley_server.rpc.http2.ports import bind
from parley_server.rpc.reflection import serve_reflection

READINESS = ("", "parley.v1.Chat")
LIVENESS = "liveness"
HEALTH_LIMIT_S = 1.0


class GrpcServer:
    """Serves the contract on one port. Readiness is NOT_SERVING until `serve`, and again from `refuse` on.

    The port is its own, unless `share_port` says that others of this user may listen on it, too."""

    def __init__(
        self,
        *,
        replies: Replies,
        conversations: Conversations,
        catalog: Catalog,
        edge: Edge,
        heartbeat_s: float,
        share_port: bool = False,
    ) -> None:
        self._share_port = share_port
        self._server = Http2Server()
        methods = cast(grpc.aio.Server, self._server)  # as far as generated code uses one
        self._health = health.aio.HealthServicer()
        chat_pb2_grpc.add_ChatServicer_to_server(ChatServicer(edge, replies, heartbeat_s=heartbeat_s), methods)
        conversations_pb2_grpc.add_ConversationsServicer_to_server(ConversationsServicer(edge, conversations), methods)
        catalog_pb2_grpc.add_CatalogServicer_to_server(CatalogServicer(edge, catalog), methods)
        admin_pb2_grpc.add_AdminServicer_to_server(AdminServicer(), methods)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, methods)
        files = {chat_pb2: "Chat", conversations_pb2: "Conversations", catalog_pb2: "Catalog", admin_pb2: "Admin"}
        names = [file.DESCRIPTOR.services_by_name[name].full_name for file, name in files.items()]
        serve_reflection(methods, [*names, health.SERVICE_NAME])

    async def listen(self, address: str, credentials: ssl.SSLContext | None = None) -> int:
        """Open the port and answer, not ready yet; the port's number. Raises `OSError` where it is not to be had."""
        try:
            sockets = bind(address, share=self._share_port)
        except OSError as error:
            raise OSError(f"cannot listen on {address}: is the port in use?") from error
        await self.refuse()
        await self._health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        await self._server.listen(sockets, credentials)
        return int(sockets[0].getsockname()[1])

    async def take(self, credentials: ssl.SSLContext) -> None:
        """Connections that come from now on are made with these."""
        await self._server.take(credentials)

    async def serve(self) -> None:
        """Readiness becomes SERVING."""
        await self._set(health_pb2.HealthCheckResponse.SERVING)

    async def refuse(self) -> None:
        """Readiness becomes NOT_SERVING; calls are still answered."""
        await self._set(health_pb2.HealthCheckResponse.NOT_SERVING)

    async def stop(self, grace_s: float) -> None:
        """Take no more calls; end those that are left after `grace_s`."""
        await self._server.stop(grace_s)

    async def _set(self, status: health_pb2.HealthCheckResponse.ServingStatus.ValueType) -> None:
        """Set readiness. A watcher that does not read holds a lock, so nobody waits for it longer than a moment."""
        for service in READINESS:
            try:
                async with asyncio.timeout(HEALTH_LIMIT_S):
                    await self._health.set(service, status)
            except TimeoutError:
                continue
