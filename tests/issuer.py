"""An issuer of tokens for tests: its keys, its key set, and tokens with any claims."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from tests.upstream import Script

ISSUER = "https://id.example.com"
DROP = object()
"""The value of a claim to leave out."""


@cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    """A key that all tests share, since making one takes long."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def served(body: bytes, status: int = 200, **headers: str) -> Script:
    """An HTTP response with this body."""
    return Script([body], status=status, headers={"Content-Type": "application/json"} | headers, framing="length")


class Issuer:
    """Signs with ES256, and with RS256 under the key id "rsa"."""

    def __init__(self, *kids: str) -> None:
        self.keys: dict[str, Any] = {kid: ec.generate_private_key(ec.SECP256R1()) for kid in kids or ("one",)}

    def rotate(self, kid: str) -> None:
        """Replace all keys by one with this id; "rsa" is an RSA key."""
        self.keys = {kid: rsa_key() if kid == "rsa" else ec.generate_private_key(ec.SECP256R1())}

    def jwks(self, *others: dict[str, Any]) -> bytes:
        """The key set, with `others` in front."""
        return json.dumps({"keys": [*others, *[public(kid, key) for kid, key in self.keys.items()]]}).encode()

    def token(
        self, *, kid: str | None = "", key: Any = None, algorithm: str = "", headers: Any = None, **claims: Any
    ) -> str:
        """A valid token for ada of the audience "parley", unless arguments differ. `kid` None: without an id."""
        now_s = int(time.time())
        usual = {"iss": ISSUER, "aud": "parley", "exp": now_s + 86_400, "sub": "ada"}
        named = {name: value for name, value in (usual | claims).items() if value is not DROP}
        kid = next(iter(self.keys)) if kid == "" else kid
        key = key if key is not None else self.keys.get(kid or "", next(iter(self.keys.values())))
        algorithm = algorithm or ("RS256" if isinstance(key, rsa.RSAPrivateKey) else "ES256")
        return jwt.encode(named, key, algorithm, headers=({"kid": kid} if kid else {}) | (headers or {}))


def public(kid: str, key: Any, **fields: Any) -> dict[str, Any]:
    """The public half of a key, as an entry of a key set."""
    kind = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    return kind.to_jwk(key.public_key(), as_dict=True) | {"kid": kid, "use": "sig"} | fields


def public_pem(key: Any) -> bytes:
    """The public half of a key in the form that attackers use as a secret for HS256."""
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def unsigned(token: str) -> str:
    """The same claims under `alg: none`, without a signature."""
    return jwt.encode(jwt.decode(token, options={"verify_signature": False}), None, "none")


def with_pem_as_secret(token: str, key: Any) -> str:
    """The same claims, signed with HS256 and the public key. The library refuses to do this, so it is done by hand."""
    header = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "kid": "rsa"}).encode()).rstrip(b"=")
    signed = header + b"." + token.split(".")[1].encode()
    mac = hmac.new(public_pem(key), signed, hashlib.sha256).digest()
    return (signed + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")).decode()
