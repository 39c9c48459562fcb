"""The metrics endpoint over a real socket."""

from __future__ import annotations

import socket
import threading
import urllib.request

import pytest
from parley_server.telemetry.endpoint import serve_metrics
from parley_server.telemetry.metrics import Metrics


def fetch(port: int) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        return str(response.read().decode())


def test_the_endpoint_serves_current_counts() -> None:
    metrics = Metrics()
    endpoint = serve_metrics("127.0.0.1", 0, metrics.registry)
    try:
        assert "parley_replies_active 0.0" in fetch(endpoint.port)
        metrics.reply_started()
        assert "parley_replies_active 1.0" in fetch(endpoint.port)
    finally:
        endpoint.close()


def test_close_frees_the_port_and_ends_the_thread() -> None:
    endpoint = serve_metrics("127.0.0.1", 0, Metrics().registry)
    # A connected but silent scraper must not delay the end.
    with socket.create_connection(("127.0.0.1", endpoint.port), timeout=5):
        endpoint.close()
    assert "metrics" not in [thread.name for thread in threading.enumerate()]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", endpoint.port), timeout=5)
    serve_metrics("127.0.0.1", endpoint.port, Metrics().registry).close()


def test_an_address_in_use_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            OSError, match=rf"metrics on 127\.0\.0\.1:{port}: the address is in use; set PARLEY_METRICS"
        ):
            serve_metrics("127.0.0.1", port, Metrics().registry)


def test_a_foreign_host_is_reported() -> None:
    with pytest.raises(OSError, match=r"metrics on 192\.0\.2\.1:9464: .*PARLEY_METRICS_LISTEN"):
        serve_metrics("192.0.2.1", 9464, Metrics().registry)
