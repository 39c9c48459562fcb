"""Measures the CPU to identify a caller, in this process and without a network.

python -m benchmarks.access    exit status 1 if a caller that is known needs more than 50 us

A known caller has an API key, or a token that was verified within the last 5 minutes. The other rows are tokens that
the server has not verified before. The smallest time of each counts, since a busy machine can only make it longer.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from parley_server.auth.authenticator import Access
from parley_server.core.access import tenants_of
from parley_server.core.clock import SystemClock
from parley_server.core.ports import Authenticator
from parley_server.rpc.credentials import credentials_of
from parley_server.settings import load_settings
from parley_server.telemetry.observer import Telemetry

from benchmarks.report import number, table

LIMIT_US = 50.0
ROUNDS, CALLS = 20, 200
SECRET = "a secret of thirty-two bytes or more"
KEYS: dict[str, Any] = {
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "HS256": SECRET,
}
CONFIGURATION = """
[tenants.shop]
api_keys_sha256 = ["{digest}"]
[identity.public]
issuer = "public"
audience = ["parley"]
jwks = "file:keys.json"
algorithms = ["RS256", "ES256"]
tenant = "shop"
[identity.shared]
issuer = "shared"
audience = ["parley"]
secret = "env:SECRET"
tenant = "shop"
"""


def authenticator(folder: Path) -> Authenticator:
    """The authenticator of a server with an API key and two issuers."""
    kinds = (("RS256", RSAAlgorithm), ("ES256", ECAlgorithm))
    keys = [kind.to_jwk(KEYS[name].public_key(), as_dict=True) | {"kid": name} for name, kind in kinds]
    (folder / "keys.json").write_text(json.dumps({"keys": keys}))
    digest = hashlib.sha256(b"key-of-shop").hexdigest()
    (folder / "parley.toml").write_text(CONFIGURATION.format(digest=digest))
    settings = load_settings({"PARLEY_CONFIG": str(folder / "parley.toml"), "SECRET": SECRET})
    return Access(settings, tenants_of(settings.tenants), clock=SystemClock(), observer=Telemetry()).authenticator


def token(algorithm: str, number: int) -> str:
    """A valid token, different for each number."""
    issuer = "shared" if algorithm == "HS256" else "public"
    claims = {"iss": issuer, "aud": "parley", "exp": int(time.time()) + 3600, "sub": "ada", "jti": str(number)}
    return jwt.encode(claims, KEYS[algorithm], algorithm, headers={"kid": algorithm})


async def us_per_call(callers: Authenticator, bearers: list[str]) -> float:
    """CPU time to identify a caller, in microseconds."""
    calls = [(("user-agent", "bench"), ("authorization", f"Bearer {each}"), ("x-end-user", "ada")) for each in bearers]
    began_s = time.process_time()
    for metadata in calls:
        credentials = credentials_of(metadata, {})
        callers.known(credentials) or await callers.authenticate(credentials)
    return (time.process_time() - began_s) / len(calls) * 1e6


async def measured() -> dict[str, float]:
    """The cost of each kind of credential."""
    with tempfile.TemporaryDirectory() as folder:
        callers, known = authenticator(Path(folder)), token("RS256", 0)
        costs: dict[str, list[float]] = {}
        for turn in range(ROUNDS):
            costs.setdefault("API key", []).append(await us_per_call(callers, ["key-of-shop"] * CALLS))
            costs.setdefault("token, verified before", []).append(await us_per_call(callers, [known] * CALLS))
            for algorithm in KEYS:
                new = [token(algorithm, turn * 10 + n + 1) for n in range(10)]
                costs.setdefault(f"new token, {algorithm}", []).append(await us_per_call(callers, new))
    return {name: min(found) for name, found in costs.items()}


def main() -> int:
    """Measure, print a table, and compare with the limit."""
    costs = asyncio.run(measured())
    print(table(["credential", "CPU per call, us"], [[name, number(cost)] for name, cost in costs.items()]))
    return int(max(costs["API key"], costs["token, verified before"]) > LIMIT_US)


if __name__ == "__main__":
    sys.exit(main())
