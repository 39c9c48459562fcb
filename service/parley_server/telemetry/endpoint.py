"""The HTTP endpoint that Prometheus scrapes, in a thread of its own. It serves metrics and nothing else."""

from __future__ import annotations

import errno
import socket
import socketserver
import threading
from http.server import ThreadingHTTPServer

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import MetricsHandler

IDLE_LIMIT_S = 10.0


class MetricsEndpoint:
    """A running endpoint; `close` ends it and frees the port."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._server.server_port

    def close(self) -> None:
        """Stop serving; returns when the port is free. Blocks for at most 0.1 s."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve_metrics(host: str, port: int, registry: CollectorRegistry) -> MetricsEndpoint:
    """Listen on the address. Raises OSError, with a message for the operator, where that cannot be."""
    try:
        family, address = _resolve(host, port)
        kind = type("MetricsServer", (_Server,), {"address_family": family})
        return MetricsEndpoint(kind(address, _requests_for(registry)))
    except OSError as error:
        problem = "the address is in use" if error.errno == errno.EADDRINUSE else (error.strerror or "cannot listen")
        raise OSError(
            error.errno, f"metrics on {host}:{port}: {problem}; PARLEY_METRICS_LISTEN chooses another or, empty, none"
        ) from error


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def server_bind(self) -> None:
        """Bind without the reverse lookup of the host's name, which can take seconds where there is no resolver."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """A scraper that hangs up is no event of this server's."""


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return family, (str(address[0]), port)


def _requests_for(registry: CollectorRegistry) -> type[MetricsHandler]:
    # A client that connects and says nothing must not hold its thread for ever.
    return type("MetricsRequests", (MetricsHandler,), {"registry": registry, "timeout": IDLE_LIMIT_S})
