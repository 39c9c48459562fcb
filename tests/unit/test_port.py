"""Which servers may bind a port that workers share: before, while and after they serve."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from parley_server.port import SharedPort
from parley_server.settings import Address


def served(address: Address, *, share: bool) -> grpc.Server:
    """A gRPC server there, as Parley opens it; raises RuntimeError where it is refused."""
    server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.so_reuseport", int(share))])
    server.add_insecure_port(str(address))
    server.start()
    return server


def stop(*servers: grpc.Server) -> None:
    for server in servers:
        server.stop(None).wait()


def refuse_all_others(address: Address, reach: str) -> None:
    with pytest.raises(RuntimeError, match="Failed to bind"):
        served(address, share=False)
    with pytest.raises(OSError, match=rf"cannot listen on .*:{address.port}: the port is in use"), SharedPort(address):
        pass
    with pytest.raises(OSError, match="in use"):
        socket.create_server((reach, address.port), family=socket.AF_INET6 if ":" in reach else socket.AF_INET)


@pytest.mark.parametrize(
    ("host", "reach"),
    [("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("::1", "::1")],
)
def test_only_workers_share_the_port(host: str, reach: str) -> None:
    with SharedPort(Address(host=host, port=0)) as port:
        address = port.address
        assert address.port > 0
        refuse_all_others(address, reach)
        workers = [served(address, share=True) for _ in range(2)]
        refuse_all_others(address, reach)
        socket.create_connection((reach, address.port), timeout=5).close()
        stop(*workers)
        refuse_all_others(address, reach)
    with SharedPort(address) as port:
        assert port.address == address, "the number that was asked for"
        refuse_all_others(address, reach)
        stop(served(address, share=True))
    stop(served(address, share=False))


def test_a_reserved_port_refuses_connections() -> None:
    with (
        SharedPort(Address(host="127.0.0.1", port=0)) as port,
        pytest.raises(ConnectionRefusedError),
    ):
        socket.create_connection(("127.0.0.1", port.address.port), timeout=5)


def test_a_port_in_use_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address(host="127.0.0.1", port=taken.getsockname()[1])
        with pytest.raises(OSError, match="the port is in use"), SharedPort(address):
            pass
    single = served(address, share=False)
    with pytest.raises(OSError, match="the port is in use"), SharedPort(address):
        pass
    stop(single)


@pytest.mark.parametrize("share", [False, True])
def test_the_ended_connections_of_the_server_before_do_not_matter(share: bool) -> None:
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(share))
        listening.bind(("127.0.0.1", 0))
        listening.listen(1)
        address = Address(host="127.0.0.1", port=listening.getsockname()[1])
        with socket.create_connection(("127.0.0.1", address.port)) as client:
            listening.accept()[0].close()  # who closes first keeps the port for a minute: TIME_WAIT
            assert client.recv(1) == b""
    with SharedPort(address):
        stop(served(address, share=True))


def test_at_most_one_of_concurrent_requests_gets_the_port() -> None:
    """None is possible: then each has seen another that was about to."""
    count = 4
    together, outcomes = threading.Barrier(count), []

    def ask(address: Address) -> bool:
        together.wait(10)
        try:
            with SharedPort(address):
                together.wait(10)
                return True
        except OSError:
            together.wait(10)
            return False

    with ThreadPoolExecutor(count) as pool:
        for _ in range(200):
            with SharedPort(Address(host="127.0.0.1", port=0)) as free:
                address = free.address
            outcomes.append(sum(pool.map(ask, [address] * count)))
    assert set(outcomes) <= {0, 1}
    assert 1 in outcomes


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_a_host_that_is_not_ours_is_said_so(host: str) -> None:
    with pytest.raises(OSError, match=rf"cannot listen on {host}:5: "), SharedPort(Address(host=host, port=5)):
        pass


def test_joining_a_port_returns_its_addresses_for_grpc() -> None:
    with SharedPort(Address(host="localhost", port=0)) as port:
        with SharedPort(port.address, join=True) as joined:
            assert joined.targets == port.targets
            assert f"127.0.0.1:{port.address.port}" in joined.targets
        refuse_all_others(port.address, "127.0.0.1")


def test_an_unshared_port_cannot_be_joined() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = Address(host="127.0.0.1", port=taken.getsockname()[1])
        with pytest.raises(OSError, match="the port is in use"), SharedPort(address, join=True):
            pass
