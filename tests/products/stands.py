"""A product as a company would run it: credentials, limits, stored keys, and for one of them PostgreSQL and Redis."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import parley
from cryptography.fernet import Fernet
from parley_server.store.migrate import migrate

from tests.ports import free_port
from tests.products.backends import Product, api_key, started, tenants
from tests.products.browsing import Browser
from tests.products.models import KEY, model_table
from tests.products.silence import Silence
from tests.products.wires import WIRES, Wire
from tests.services import PostgresServer, RedisServer, require_postgres, require_redis

BACKEND_KEY, ADMIN_KEY = "prl-key-of-the-backend-0123456789", "prl-key-of-the-operator-0123456789"
PAGES = {"index.html": "<!doctype html><title>The page</title>", "assets/page-1a2b.js": "console.log('page')"}
"""Stand for a build of the page."""

LIMITS = {
    "spring-boot": "limits = { messages_per_minute = 10 }",
    "express": "quotas = { tokens_per_day = 10000 }",
}
"""By product: limits of each end user."""


@dataclass
class Stand:
    """A running product."""

    product: Product
    wire: Wire
    upstream_port: int
    postgres: PostgresServer | None = None
    redis: RedisServer | None = None
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    silence: Silence = field(init=False)

    def __post_init__(self) -> None:
        conversation = self.wire.new_conversation()
        self.silence = Silence(self.product, self.user(), conversation=conversation, open_client=self.client)

    def start_stopped_parts(self) -> None:
        """Start what a failed test has left stopped."""
        for part in (self.postgres, self.redis, self.product.parley, self.product.backend):
            if part is not None and not part.running:
                part.start()

    def user(self, name: str = "ada") -> str:
        """A user of one test."""
        return f"{name}-{next(self._numbers)}"

    def browser(self, user: str, **claims: Any) -> Browser:
        """The user's browser, with further claims in its token."""
        return Browser(self.product, user, **claims)

    def client(self, user: str) -> parley.Client:
        """A client of Parley itself, that sees what the user sees."""
        if self.product.name == "ui":
            return parley.Client(self.product.parley.address, api_key=api_key(user))
        return parley.Client(self.product.parley.address, api_key=BACKEND_KEY, end_user=user)


def config(name: str, port: int) -> str:
    """Parley's configuration for a product whose vendor is at this port."""
    models = model_table("chat", name, port) + SCRIPTED
    if name == "ui":
        return models + tenants(*(f"{user}-{number}" for user in ("ada", "ben") for number in range(200)))
    shop = [f'api_keys_sha256 = ["{_digest(BACKEND_KEY)}"]', "require_end_user = false", LIMITS.get(name, "")]
    ops = [f'api_keys_sha256 = ["{_digest(ADMIN_KEY)}"]', 'roles = ["admin"]']
    return "\n".join([models, "[tenants.shop]", *shop, "[tenants.ops]", *ops, ""])


SCRIPTED = """
[providers.silence]
kind = "scripted"
script = { first_token_delay_s = 300 }
[models.silent]
provider = "silence"
name = "scripted"
[providers.typewriter]
kind = "scripted"
script = { delay_s = 0.02 }
[models.typewriter]
provider = "typewriter"
name = "scripted"
[server]
default_model = "chat"
drain_pause_s = 0
drain_grace_s = 3
disconnect_cancel_s = 0.5
max_readers_per_reply = 8
lease_s = 2
sweep_interval_s = 0.5
relay_heartbeat_s = 0.5
reconcile_interval_s = 0.5
"""


@contextlib.contextmanager
def prepared(name: str, folder: Path, *, environment: Mapping[str, str] | None = None) -> Iterator[Stand]:
    """Start a product and what it needs. `environment`: further variables of its backend."""
    with contextlib.ExitStack() as stack:
        port = free_port()
        postgres = redis = None
        server = {"UPSTREAM_KEY": KEY, "PARLEY_ENCRYPTION_KEYS": Fernet.generate_key().decode()}
        if name == "spring-boot":
            require_postgres()
            require_redis()
            postgres = stack.enter_context(PostgresServer(folder / "postgres"))
            redis = stack.enter_context(RedisServer(folder / "redis"))
            server |= {"PARLEY_DATABASE_URL": postgres.url(), "PARLEY_REDIS_URL": redis.url()}
            migrate(postgres.url())
        backend = {} if name == "ui" else _backend_environment(folder)
        product = stack.enter_context(
            started(
                name,
                folder / "product",
                toml=config(name, port),
                environment={**backend, **(environment or {})},
                parley_environment=server,
            )
        )
        stand = Stand(product, WIRES[name], port, postgres, redis)
        stand.silence.listen()
        yield stand


def _backend_environment(folder: Path) -> dict[str, str]:
    page = folder / "page"
    for path, text in PAGES.items():
        (page / path).parent.mkdir(parents=True, exist_ok=True)
        (page / path).write_text(text)
    (folder / "secret.txt").write_text("a secret file")
    return {
        "PARLEY_API_KEY": BACKEND_KEY,
        "PARLEY_ADMIN_KEY": ADMIN_KEY,
        "PARLEY_TENANT": "shop",
        "CHAT_PAGE": str(page),
        "CHAT_DEMO_LOGIN": "on",
    }


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
