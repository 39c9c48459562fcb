"""Which Redis servers and URLs the relay accepts."""

from __future__ import annotations

import pytest
from parley_server.relay.redis_check import RelayUnusable, check_server, connector


def info(**facts: str) -> bytes:
    given = {"redis_version": "7.0.15", "redis_mode": "standalone", "maxmemory_policy": "noeviction"} | facts
    return ("# Server\r\n" + "".join(f"{name}:{value}\r\n" for name, value in given.items())).encode()


@pytest.mark.parametrize("version", ["7.0.0", "7.2.4", "8.1.0", "10.0.1"])
def test_a_usable_server_is_accepted(version):
    check_server(info(redis_version=version))


def test_valkey_is_accepted_by_its_redis_version():
    check_server(info(redis_version="7.2.4", server_name="valkey", valkey_version="8.0.1"))


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ({"redis_version": "6.2.14"}, "6.2.14"),
        ({"redis_version": "unknown"}, "unknown"),
        ({"redis_mode": "cluster"}, "Cluster"),
        ({"maxmemory_policy": "allkeys-lru"}, "allkeys-lru"),
        ({"maxmemory_policy": "volatile-ttl"}, "noeviction"),
        ({"maxmemory_policy": ""}, "noeviction"),
    ],
)
def test_an_unusable_server_is_refused(facts, word):
    with pytest.raises(RelayUnusable, match=word):
        check_server(info(**facts))


@pytest.mark.parametrize(
    "url", ["", "localhost:6379", "http://localhost", "redis://host/0?db=x", "redis://h?colour=red"]
)
def test_an_invalid_url_is_refused(url):
    with pytest.raises(RelayUnusable):
        connector(url)


def test_redis_py_has_no_limits_of_its_own():
    made = connector("redis://user:p%40ss@example:7000/3?socket_timeout=9&health_check_interval=1&protocol=3")("name")
    assert (made.host, made.port, made.db, made.username, made.password) == ("example", 7000, 3, "user", "p@ss")
    assert (made.socket_timeout, made.health_check_interval, made.protocol) == (None, 0, 2)
    assert made.retry.get_retries() == 0
    assert made.client_name == "name"


def test_tls_verifies_the_server_unless_disabled(tmp_path):
    made = connector(f"rediss://example?ssl_ca_certs={tmp_path}/ca.pem")("name")
    assert (made.ca_certs, made.check_hostname) == (f"{tmp_path}/ca.pem", True)
