"""The Redis server that a relay needs: how it is reached, and whether it will do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

CONNECT_S = 1.0
LEAST_VERSION = (7, 0)


class RelayUnusable(Exception):
    """The relay cannot be used as things stand; the message tells the operator why, and what to do."""


Connect = Callable[[str], Connection]


def connector(url: str) -> Connect:
    """Makes connections, not yet made, to the server of a URL; each shows its name in Redis' list of clients.

    Raises RelayUnusable for what is no URL of a Redis.
    """
    try:
        options: dict[str, Any] = dict(parse_url(url))
    except ValueError:
        raise RelayUnusable(
            "the relay's URL is not one of a Redis: use redis://HOST:PORT, or rediss:// for TLS"
        ) from None
    kind = options.pop("connection_class", Connection)
    options |= {
        "protocol": 2,
        "socket_timeout": None,  # the relay has limits of its own, one for many commands: each would cost a task
        "socket_connect_timeout": CONNECT_S,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        "driver_info": None,
    }

    def connect(name: str) -> Connection:
        made: Connection = kind(**options, client_name=name)
        return made

    try:
        connect("parley")
    except (TypeError, ValueError, RedisError, OSError) as error:
        raise RelayUnusable(f"the relay's URL has an option that does not fit: {error}") from None
    return connect


def check_server(info: bytes) -> None:
    """Whether a server that tells this of itself will do. Raises RelayUnusable."""
    facts = dict(line.split(":", 1) for line in info.decode(errors="replace").splitlines() if ":" in line)
    version = facts.get("redis_version", "0")
    if tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) < LEAST_VERSION:
        raise RelayUnusable(f"the relay needs Redis 7.0 or later, or Valkey; this server is Redis {version}")
    if facts.get("redis_mode") == "cluster":
        raise RelayUnusable("the relay does not support Redis Cluster: use a server that is not one of a cluster")
    if (policy := facts.get("maxmemory_policy", "")) != "noeviction":
        raise RelayUnusable(
            f"the relay's Redis may drop keys at any time: set its maxmemory-policy to noeviction (it is {policy})"
        )
