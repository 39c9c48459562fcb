"""The product backends of `examples/` and `parley serve --ui`, each a real process with a real Parley beside it.

    with started("express", folder) as product:
        httpx2.get(f"{product.url}/api/page/conversations", headers=product.headers("ada"))

All calls block for up to a minute; a test whose event loop must run meanwhile uses `asyncio.to_thread`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt

from tests.needs import CLIENTS, missing
from tests.ports import free_port
from tests.service import Service
from tests.tools import ROOT, tool

EXAMPLES = ROOT / "examples"
PARLEY = str(Path(sys.executable).with_name("parley"))
JWT_KEY = "a key of the tests, long enough for the tests of other algorithms, too"
QUICK_START = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""For a JVM that lives for a minute."""
TOKEN_LIFETIME_S = 24 * 3600
USERS = ("ada", "ben")

TYPEWRITER = """
[providers.typewriter]
kind = "scripted"
script = { delay_s = 0.02 }
[models.scripted]
provider = "typewriter"
name = "scripted"
images = true
prices = { prompt = 2.0, completion = 8.0 }
[server]
default_model = "scripted"
"""
"""A configuration of Parley whose only model types the question back."""


class ParleyServer(Service):
    """`parley serve` in `folder`, whose SQLite file outlives restarts.

    toml: its configuration. environment: variables such as `PARLEY_DATABASE_URL`. ui_port: serve the page there, too.
    """

    start_s = 60.0

    def __init__(
        self, folder: Path, *, toml: str = TYPEWRITER, environment: Mapping[str, str] | None = None, ui_port: int = 0
    ) -> None:
        super().__init__(folder, port=0)
        self._toml = toml
        self._own = dict(environment or {})
        self._ui_port = ui_port
        self._ready_line = _ReadyLine(self.log)

    @property
    def address(self) -> str:
        """The value for `PARLEY_ADDRESS`."""
        return f"127.0.0.1:{self.port}"

    def kill(self) -> None:
        """SIGKILL."""
        self.kill9()

    def terminate(self) -> int:
        """SIGTERM; the exit status."""
        self.stop("fast")
        return self.exit_status

    def _prepare(self) -> None:
        (self.folder / "parley.toml").write_text(self._toml)
        self._ready_line.skip()

    def _command(self) -> list[str]:
        return [PARLEY, "serve", *(["--ui", "--ui-port", str(self._ui_port)] if self._ui_port else [])]

    def _environment(self) -> dict[str, str]:
        return {
            "PARLEY_CONFIG": str(self.folder / "parley.toml"),
            "PARLEY_DATABASE_URL": f"sqlite+aiosqlite:///{self.folder / 'parley.db'}",
            "PARLEY_LISTEN": self.address,
            "PARLEY_METRICS_LISTEN": "",
            **self._own,
        }

    def _working_folder(self) -> Path:
        return self.folder

    def _ready(self) -> bool:
        wanted = [self.address, *([f"127.0.0.1:{self._ui_port}"] if self._ui_port else [])]
        return all(self._ready_line.found(each) for each in wanted)

    def _stop_signal(self, mode: str) -> signal.Signals:
        return _SIGNALS[mode]


class Backend(Service):
    """The backend of one product, of `NAMES` without `ui`.

    parley: the address of its Parley. environment: overrides variables, such as `CHAT_DEMO_LOGIN`.
    """

    start_s = 90.0

    def __init__(
        self, name: str, folder: Path, parley: str, *, environment: Mapping[str, str] | None = None, port: int = 0
    ) -> None:
        super().__init__(folder, port=port)
        self.name = name
        self._parley = parley
        self._own = dict(environment or {})
        self._ready_line = _ReadyLine(self.log)

    @property
    def url(self) -> str:
        """Where it serves, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """SIGKILL."""
        self.kill9()

    def terminate(self) -> int:
        """SIGTERM; the exit status."""
        self.stop("fast")
        return self.exit_status

    def _prepare(self) -> None:
        self._ready_line.skip()

    def _command(self) -> list[str]:
        return COMMANDS[self.name](self.port)

    def _environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("HOME", "JAVA_HOME") if name in os.environ}
        return {
            **kept,
            "JAVA_TOOL_OPTIONS": QUICK_START,
            "PARLEY_ADDRESS": self._parley,
            "PORT": str(self.port),
            "CHAT_JWT_KEY": JWT_KEY,
            **self._own,
        }

    def _working_folder(self) -> Path:
        return EXAMPLES / self.name

    def _ready(self) -> bool:
        return self._ready_line.found(f":{self.port}")

    def _stop_signal(self, mode: str) -> signal.Signals:
        return _SIGNALS[mode]


@dataclass(frozen=True)
class Product:
    """A running backend with its Parley. For `ui` both are one process."""

    name: str
    url: str
    backend: Backend | ParleyServer
    parley: ParleyServer
    credentials: bool = True
    """Whether callers need a token; `ui` needs none without tenants."""

    def token(self, user: str, *, lifetime_s: float = TOKEN_LIFETIME_S, **claims: Any) -> str:
        """The user's token: a JWT, or for `ui` the API key of a tenant. `claims` override those of a JWT."""
        if self.name == "ui":
            return api_key(user) if self.credentials else ""
        now = int(time.time())
        return jwt.encode({"sub": user, "iat": now, "exp": now + int(lifetime_s), **claims}, JWT_KEY, "HS256")

    def headers(self, user: str, **claims: Any) -> dict[str, str]:
        """The header with the user's token, if one is needed."""
        token = self.token(user, **claims)
        return {"Authorization": f"Bearer {token}"} if token else {}

    def kill(self) -> None:
        """SIGKILL to the backend."""
        self.backend.kill()

    def terminate(self) -> int:
        """SIGTERM to the backend; its exit status."""
        return self.backend.terminate()

    def restart(self) -> None:
        """Kill the backend if it runs, and start it on the same port."""
        self.backend.restart()


@contextlib.contextmanager
def started(
    name: str,
    folder: Path,
    *,
    toml: str = TYPEWRITER,
    credentials: bool = True,
    environment: Mapping[str, str] | None = None,
    parley_environment: Mapping[str, str] | None = None,
) -> Iterator[Product]:
    """A Parley and a backend, or `parley serve --ui`. Skips the test if the product is not built; fails it in CI.

    credentials: for `ui`, whether it has a tenant with an API key for each of `USERS`, unless `toml` has tenants.
    environment: that of the backend.
    """
    require(name)
    if name == "ui":
        more = tenants(*USERS) if credentials and "[tenants." not in toml else ""
        ui = _UiServer(folder, toml=toml + more, environment={**(parley_environment or {}), **(environment or {})})
        with ui:
            yield Product(name, ui.url, ui, ui, credentials=credentials)
        return
    with (
        ParleyServer(folder / "parley", toml=toml, environment=parley_environment) as parley,
        Backend(name, folder / name, parley.address, environment=environment) as backend,
    ):
        yield Product(name, backend.url, backend, parley)


def require(name: str) -> None:
    """Skip the test if the product is not built; fail it in CI."""
    if not BUILT[name]():
        missing(f"the build of {name}", CLIENTS)


def api_key(user: str) -> str:
    """The API key of a user's tenant."""
    return f"prl-of-the-tests-{user}-0123456789abcdef"


def tenants(*users: str) -> str:
    """Tables of tenants, one for each user, with an API key."""
    digests = {user: hashlib.sha256(api_key(user).encode()).hexdigest() for user in users}
    return "".join(f'\n[tenants.{user}]\napi_keys_sha256 = ["{digest}"]\n' for user, digest in digests.items())


# --- how each product is started, and what its build makes


def _jar() -> Path | None:
    return next(iter(sorted((EXAMPLES / "spring-boot/target").glob("*.jar"))), None)


def _spring_boot(port: int) -> list[str]:
    return [tool("java"), "-jar", str(_jar())]


def _node(name: str) -> Callable[[int], list[str]]:
    return lambda port: [tool("node"), str(EXAMPLES / name / "build/src/main.js")]


def _python(name: str) -> Callable[[int], list[str]]:
    return lambda port: [sys.executable, str(EXAMPLES / name / "app.py")]


def _exists(path: str) -> Callable[[], bool]:
    return (EXAMPLES / path).exists


COMMANDS: dict[str, Callable[[int], list[str]]] = {
    "spring-boot": _spring_boot,
    "express": _node("express"),
    "vision": _node("vision"),
    "roleplay": _python("roleplay"),
    "negotiate": _python("negotiate"),
}
BUILT: dict[str, Callable[[], bool]] = {
    "spring-boot": lambda: _jar() is not None,
    "express": _exists("express/build/src/main.js"),
    "vision": _exists("vision/build/src/main.js"),
    "roleplay": _exists("roleplay/app.py"),
    "negotiate": _exists("negotiate/app.py"),
    "ui": (ROOT / "service/parley_server/ui").exists,
}
NAMES = tuple(BUILT)

_SIGNALS = {"fast": signal.SIGTERM, "immediate": signal.SIGKILL}


class _UiServer(ParleyServer):
    """`parley serve --ui`."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, ui_port=free_port(), **options)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._ui_port}"


class _ReadyLine:
    """Looks for words in what a process has logged since its last start."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._start = 0

    def skip(self) -> None:
        """Forget what was logged before a start."""
        self._start = self._log.stat().st_size if self._log.exists() else 0

    def found(self, words: str) -> bool:
        """Whether a whole line has these words."""
        with self._log.open("rb") as log:
            log.seek(self._start)
            return any(words.encode() in line for line in log if line.endswith(b"\n"))
