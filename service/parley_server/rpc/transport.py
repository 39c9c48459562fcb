"""The options of the gRPC servers: limits of connections, calls and messages."""

from __future__ import annotations

from typing import Final

from parley_server.settings import ServerSettings

MAX_MESSAGE_BYTES: Final = 8 * 1024 * 1024
PING_ANSWER_S: Final = 10.0
HANDSHAKE_S: Final = 10.0

# The engine limits admission and refuses with a reason. Below these counts, the transport refuses no call.
PENDING_CALLS: Final = 20_000
PENDING_CALLS_HARD: Final = 50_000

Options = tuple[tuple[str, int], ...]


def options(server: ServerSettings) -> Options:
    """The options in gRPC's form. They include `grpc.so_reuseport`, so a `SharedPort` must hold the port."""
    return (
        ("grpc.so_reuseport", 1),
        # Beyond this number, a client queues its calls without a notice, so it must be high.
        ("grpc.max_concurrent_streams", server.streams_per_connection),
        ("grpc.server.max_pending_requests", PENDING_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", PENDING_CALLS_HARD),
        ("grpc.server_handshake_timeout_ms", _ms(HANDSHAKE_S)),
        ("grpc.keepalive_time_ms", _ms(server.keepalive_s)),
        # The documented option for this, `grpc.keepalive_timeout_ms`, has no effect in grpcio 1.85.
        ("grpc.http2.ping_timeout_ms", _ms(PING_ANSWER_S)),
        ("grpc.keepalive_permit_without_calls", 1),
        # gRPC's default of five minutes closes the connections of clients with ordinary keepalive settings.
        ("grpc.http2.min_ping_interval_without_data_ms", _ms(server.least_ping_interval_s)),
        # A client keeps its connection: without an age, a replica that was added later would get no calls.
        ("grpc.max_connection_age_ms", _ms(server.connection_age_s)),
        ("grpc.max_connection_age_grace_ms", _ms(server.connection_grace_s)),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        # Between two different limits, gRPC refuses calls at random. Equal limits make the refusal predictable.
        ("grpc.max_metadata_size", server.metadata_bytes),
        ("grpc.absolute_max_metadata_size", server.metadata_bytes),
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
