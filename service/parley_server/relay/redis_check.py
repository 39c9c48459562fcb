"""Makes connections to the relay's Redis, and checks that the server is usable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

CONNECT_S = 1.0
LEAST_VERSION = (7, 0)


class RelayUnusable(Exception):
    """The relay cannot be used. The message says why, and what the operator must do."""


class RedisServer(NamedTuple):
    """A server that can be used: "Redis" or "Valkey", its version, and its `maxmemory-policy`."""

    name: str
    version: str
    policy: str


Connect = Callable[[str], Connection]


def connector(url: str) -> Connect:
    """A function that makes unconnected connections to the server; it takes the name for Redis' `CLIENT LIST`.

    Raises RelayUnusable if the URL or one of its options is invalid.
    """
    try:
        options: dict[str, Any] = dict(parse_url(url))
    except ValueError:
        raise RelayUnusable("the relay's URL is not a Redis URL: use redis://HOST:PORT, or rediss:// for TLS") from None
    kind = options.pop("connection_class", Connection)
    options |= {
        "protocol": 2,
        "socket_timeout": None,  # the relay has one limit for many commands; redis-py's would cost a task for each
        "socket_connect_timeout": CONNECT_S,
        "retry": Retry(NoBackoff(), 0),  # callers retry, since only they can decide what is safe to repeat
        "health_check_interval": 0,
        "driver_info": None,  # saves two commands in each handshake
    }

    def connect(name: str) -> Connection:
        made: Connection = kind(**options, client_name=name)
        return made

    try:
        # The constructor checks the options without connecting, so that a fault in the URL is found at the start.
        connect("parley")
    except (TypeError, ValueError, RedisError, OSError) as error:
        raise RelayUnusable(f"the relay's URL has an invalid option: {error}") from None
    return connect


def check_server(info: bytes) -> RedisServer:
    """Check a server's answer to INFO, and return what it is. Raises RelayUnusable."""
    facts = dict(line.split(":", 1) for line in info.decode(errors="replace").splitlines() if ":" in line)
    version = facts.get("redis_version", "0")
    if tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) < LEAST_VERSION:
        raise RelayUnusable(f"the relay needs Redis 7.0 or later, or Valkey; this server is Redis {version}")
    if facts.get("redis_mode") == "cluster":
        raise RelayUnusable("the relay does not support Redis Cluster: use a server without cluster mode")
    if (policy := facts.get("maxmemory_policy", "")) != "noeviction":
        raise RelayUnusable(
            f"the relay's Redis may drop keys at any time: set its maxmemory-policy to noeviction (it is {policy})"
        )
    if "valkey_version" in facts:
        return RedisServer("Valkey", facts["valkey_version"], policy)
    return RedisServer("Redis", version, policy)
