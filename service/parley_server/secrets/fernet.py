"""Encrypts API keys of providers with Fernet (AES-128-CBC and HMAC-SHA256)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from parley_server.core.secret import Secret
from parley_server.core.store_types import KeyPlace


class _Content(msgspec.Struct, frozen=True):
    """What is encrypted. It names its place, so that a row that is copied to another place cannot be used there."""

    p: str
    t: str
    k: str


class FernetCipher:
    """Implements `KeyCipher`. The first of `encryption_keys` encrypts, all of them decrypt. Raises ValueError for an
    invalid one."""

    def __init__(self, encryption_keys: Sequence[str]) -> None:
        self._fernet = MultiFernet([Fernet(key) for key in encryption_keys])

    def encrypt(self, place: KeyPlace, key: Secret) -> str:
        content = _Content(p=place.provider, t=place.tenant, k=key.reveal())
        return self._fernet.encrypt(msgspec.json.encode(content)).decode()

    def decrypt(self, place: KeyPlace, token: str) -> Secret:
        try:
            content = msgspec.json.decode(self._fernet.decrypt(token.encode()), type=_Content)
        except (InvalidToken, msgspec.MsgspecError, UnicodeError) as error:
            raise ValueError("the token cannot be decrypted") from error
        if (content.p, content.t) != place:
            raise ValueError("the token belongs to another provider or tenant")
        return Secret(content.k)

    def rotate(self, token: str) -> str:
        try:
            return self._fernet.rotate(token.encode()).decode()
        except (InvalidToken, UnicodeError) as error:
            raise ValueError("the token cannot be decrypted") from error


def new_encryption_key() -> str:
    """A new random key."""
    return Fernet.generate_key().decode()
