"""The HTTP endpoint for Prometheus, in its own thread. It serves only metrics."""

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
    """A running endpoint. `close` stops it and frees the port."""

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return self._server.server_port

    def close(self) -> None:
        """Stop serving. Returns when the port is free. Blocks for at most 0.1 s."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve_metrics(host: str, port: int, registry: CollectorRegistry) -> MetricsEndpoint:
    """Listen on the address. Raises OSError, with a message for the operator, if that fails."""
    try:
        family, address = _resolve(host, port)
        # The library's server is for IPv4, unless its class names another family.
        kind = type("MetricsServer", (_Server,), {"address_family": family})
        return MetricsEndpoint(kind(address, _requests_for(registry)))
    except OSError as error:
        problem = "the address is in use" if error.errno == errno.EADDRINUSE else (error.strerror or "cannot listen")
        advice = "set PARLEY_METRICS_LISTEN to another address, or to an empty one to turn the metrics off"
        raise OSError(error.errno, f"metrics on {host}:{port}: {problem}; {advice}") from error


class _Server(ThreadingHTTPServer):
    # A scraper that reads slowly must delay neither `close` nor the end of the process.
    daemon_threads = True
    block_on_close = False

    def server_bind(self) -> None:
        """Bind without a reverse lookup of the host name, which can take seconds without a resolver."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore errors of connections, such as a scraper that disconnects."""


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return family, (str(address[0]), port)


def _requests_for(registry: CollectorRegistry) -> type[MetricsHandler]:
    # The timeout frees the thread of a client that connects and sends nothing.
    return type("MetricsRequests", (MetricsHandler,), {"registry": registry, "timeout": IDLE_LIMIT_S})
