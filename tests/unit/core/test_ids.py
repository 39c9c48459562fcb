"""Ids as bytes."""

from __future__ import annotations

import base64

import pytest
from parley_server.core.ids import id_bytes, new_id


def test_an_id_is_decoded_to_its_bytes() -> None:
    for number in range(100):
        identifier = new_id(1_796_020_713_144_909 + number * 1_000_000)
        assert id_bytes(identifier) == base64.b32hexdecode(identifier.upper() + "======")


@pytest.mark.parametrize("other", ["", "reply-1", "w" * 26, "0" * 25, "0" * 27, "+" + "0" * 25, "0_" * 13, " " * 26])
def test_a_text_that_is_not_an_id_has_no_bytes(other: str) -> None:
    assert id_bytes(other) is None
