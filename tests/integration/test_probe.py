"""The health probe of containers, as a process, against a real health service."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc


@pytest.fixture
def service() -> Iterator[tuple[health.HealthServicer, int]]:
    servicer = health.HealthServicer()
    server = grpc.server(ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, port
    server.stop(None).wait()


def probe(*arguments: str, **environment: str) -> tuple[int, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PARLEY_")}
    # The probe must not use a proxy of the environment for its own machine.
    kept |= {"http_proxy": "http://192.0.2.1:1", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "parley_server.cli.probe", *arguments]
    result = subprocess.run(command, env=kept | environment, capture_output=True, text=True, timeout=60)
    return result.returncode, result.stdout + result.stderr


def test_the_probe_reports_the_health_of_the_server(service: tuple[health.HealthServicer, int]) -> None:
    servicer, port = service
    address = {"PARLEY_LISTEN": f"0.0.0.0:{port}", "PARLEY_INSECURE": "1"}
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    servicer.set("liveness", health_pb2.HealthCheckResponse.SERVING)
    assert probe(**address) == (0, "SERVING\n")
    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert probe(**address) == (1, "NOT_SERVING\n")
    assert probe("--service", "liveness", **address) == (0, "SERVING\n")


def test_a_missing_server_is_unavailable(service: tuple[health.HealthServicer, int]) -> None:
    assert probe(PARLEY_LISTEN="127.0.0.1:1") == (1, "UNAVAILABLE\n")


def test_an_invalid_configuration_exits_with_status_2() -> None:
    status, output = probe(PARLEY_LISTEN="nowhere")
    assert status == 2
    assert "PARLEY_LISTEN: must be" in output
