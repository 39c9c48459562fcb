"""Runs a module's tests for each product: `pytestmark = EACH`."""

from __future__ import annotations

import pytest

from tests.products.backends import NAMES


def lane(name: str) -> pytest.MarkDecorator:
    """All tests of a product run in one process, which starts it once."""
    return pytest.mark.xdist_group(f"product-{name}")


EACH = pytest.mark.parametrize("stand", [pytest.param(name, marks=lane(name)) for name in NAMES], indirect=True)
