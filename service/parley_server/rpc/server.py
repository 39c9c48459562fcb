"""The gRPC server: its options, its services, health and reflection."""

from __future__ import annotations

import asyncio

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
from parley_server.rpc import accepting
from parley_server.rpc.calls import Edge
from parley_server.rpc.catalog import AdminServicer, CatalogServicer
from parley_server.rpc.chat import ChatServicer
from parley_server.rpc.conversations import ConversationsServicer
from parley_server.rpc.reflection import serve_reflection

MIB = 1024 * 1024
READINESS = ("", "parley.v1.Chat")
LIVENESS = "liveness"
HEALTH_LIMIT_S = 1.0
BUSY = tuple(f"/parley.v1.Chat/{method}" for method in ("StreamReply", "CreateReply", "ResumeReply", "PollReply"))

# Admission is the engine's, with a clear status: the transport sheds nothing and makes nobody queue.
OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_concurrent_streams", 10_000),
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 50_000),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.max_connection_age_ms", 1_200_000),
    ("grpc.max_connection_age_grace_ms", 900_000),
    ("grpc.max_receive_message_length", 8 * MIB),
)


class GrpcServer:
    """Serves the contract on one port. Readiness is NOT_SERVING until `serve`, and again from `refuse` on.

    The port is its own, unless `share_port` says that others of this user may listen on it, too: gRPC's default would
    let two servers share a port in silence."""

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
        self._server = accepting.server((*OPTIONS, ("grpc.so_reuseport", int(share_port))), busy=BUSY)
        self._health = health.aio.HealthServicer()
        chat_pb2_grpc.add_ChatServicer_to_server(ChatServicer(edge, replies, heartbeat_s=heartbeat_s), self._server)
        conversations_pb2_grpc.add_ConversationsServicer_to_server(
            ConversationsServicer(edge, conversations), self._server
        )
        catalog_pb2_grpc.add_CatalogServicer_to_server(CatalogServicer(edge, catalog), self._server)
        admin_pb2_grpc.add_AdminServicer_to_server(AdminServicer(), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        files = {chat_pb2: "Chat", conversations_pb2: "Conversations", catalog_pb2: "Catalog", admin_pb2: "Admin"}
        names = [file.DESCRIPTOR.services_by_name[name].full_name for file, name in files.items()]
        serve_reflection(self._server, [*names, health.SERVICE_NAME])

    async def listen(self, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        """Open the port and answer, not ready yet; the port's number. Raises `OSError` where it is not to be had."""
        try:
            if credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: is the port in use?") from error
        await self.refuse()
        await self._health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        await self._server.start()
        return int(port)

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
