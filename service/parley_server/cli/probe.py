"""Checks whether the server on this machine is ready: `python -m parley_server.cli.probe`. Exit status 0 means ready.

It reads the server's configuration, so that a container's health check needs no arguments. With TLS it only checks that
the port accepts connections, because it has neither a client certificate nor a host name to verify. It does not load
the server, so that it starts fast.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from parley_server.exit_status import CANNOT_RUN
from parley_server.settings import Address, SettingsError, load_settings

_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - maps an address to listen on to one to connect to


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the state and return the exit status: 0 serving, 1 not serving or not reached, 2 wrong configuration."""
    parser = argparse.ArgumentParser(prog="parley_server.cli.probe", description="Check a Parley server's health.")
    parser.add_argument("--service", default="", help='"" for readiness (default), "liveness"')
    parser.add_argument("--timeout", type=float, default=3.0, metavar="SECONDS", help="longest wait (default 3)")
    options = parser.parse_args(arguments)
    try:
        settings = load_settings(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return CANNOT_RUN
    state = _ask_port if settings.tls else _ask_health
    answer = state(_reachable(settings.listen), options.service, options.timeout)
    sys.stdout.write(f"{answer}\n")
    return 0 if answer == "SERVING" else 1


def _reachable(address: Address) -> Address:
    return Address(host=_ANY.get(address.host, address.host), port=address.port)


def _ask_health(address: Address, service: str, timeout_s: float) -> str:
    # A proxy in the environment is meant for provider calls, not for loopback.
    with grpc.insecure_channel(str(address), options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)
        except grpc.RpcError as error:
            return str(error.code().name)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def _ask_port(address: Address, service: str, timeout_s: float) -> str:
    del service
    try:
        with socket.create_connection((address.host, address.port), timeout=timeout_s):
            return "SERVING"
    except OSError:
        return "UNAVAILABLE"


if __name__ == "__main__":
    sys.exit(main())
