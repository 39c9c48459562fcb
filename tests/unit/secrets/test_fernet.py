"""Encrypted keys of providers."""

import pytest
from parley_server.core.secret import Secret
from parley_server.core.store_types import KeyPlace
from parley_server.secrets.fernet import FernetCipher, new_encryption_key

SHOP = KeyPlace("openai", "shop")
OLD, NEW = new_encryption_key(), new_encryption_key()


def test_a_key_is_decrypted_at_its_place_alone():
    cipher = FernetCipher([NEW])
    token = cipher.encrypt(SHOP, Secret("sk-secret"))
    assert "sk-secret" not in token
    assert cipher.decrypt(SHOP, token).reveal() == "sk-secret"
    for place in (KeyPlace("openai", "bank"), KeyPlace("openai", ""), KeyPlace("other", "shop")):
        with pytest.raises(ValueError, match="another provider or tenant"):
            cipher.decrypt(place, token)


def test_a_rotated_token_needs_the_new_key_alone():
    old = FernetCipher([OLD]).encrypt(SHOP, Secret("sk-secret"))
    both = FernetCipher([NEW, OLD])
    rotated = both.rotate(old)
    assert {both.decrypt(SHOP, each).reveal() for each in (old, rotated)} == {"sk-secret"}
    assert FernetCipher([NEW]).decrypt(SHOP, rotated).reveal() == "sk-secret"
    for wrong in (old, "", "é", "gAAAA", old[:-4]):
        for use in (lambda token: FernetCipher([NEW]).decrypt(SHOP, token), FernetCipher([NEW]).rotate):
            with pytest.raises(ValueError, match="cannot be decrypted"):
                use(wrong)
