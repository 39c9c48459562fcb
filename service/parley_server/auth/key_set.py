"""The public keys of an issuer: a JSON Web Key Set, as bytes of a file or an HTTP response."""

from __future__ import annotations

import json
from typing import Any, Final

import jwt

MAX_BYTES: Final = 256 * 1024


class KeySet:
    """Keys for signatures, each for one algorithm."""

    def __init__(self, keys: dict[tuple[str | None, str], jwt.PyJWK]) -> None:
        self._keys = keys

    def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key of this id for this algorithm. Without an id, the only key of the set."""
        if kid is not None:
            return self._keys.get((kid, algorithm))
        (only, *others) = self._keys.items()
        return only[1] if not others and only[0][1] == algorithm else None


def parse_key_set(data: bytes) -> KeySet:
    """Read a key set. Keys that cannot verify signatures are left out, such as those for encryption.

    Raises ValueError if it is none, is longer than `MAX_BYTES`, or if no key is left."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"has more than {MAX_BYTES} bytes")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("is not JSON") from None
    listed = content.get("keys") if isinstance(content, dict) else None
    if not isinstance(listed, list):
        raise ValueError('has no array "keys"')  # noqa: TRY004 - about the content, as the other faults
    found = [key for key in map(_usable, listed) if key is not None]
    keys = {(key.key_id, str(key.algorithm_name)): key for key in found}
    if not keys:
        raise ValueError("has no key for RS256 or ES256 signatures")
    return KeySet(keys)


def _usable(entry: Any) -> jwt.PyJWK | None:
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig" or not isinstance(entry.get("kid", ""), str):
        return None
    try:
        if "verify" not in entry.get("key_ops", ["verify"]):
            return None
        key = jwt.PyJWK(entry)
        weak = key.Algorithm.check_key_length(key.key)
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
        return None
    # A key for HS256 would be public, like the others of the set.
    return key if key.algorithm_name in ("RS256", "ES256") and not weak else None
