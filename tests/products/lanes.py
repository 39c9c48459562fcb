"""Runs a module's tests for each product: `pytestmark = EACH`."""

from __future__ import annotations

import pytest

from tests.products.backends import NAMES


def lane(name: str) -> pytest.MarkDecorator:
    """All tests of a product run in one process, which starts it once."""
    return pytest.mark.xdist_group(f"product-{name}")


START_LIMIT = pytest.mark.timeout(240)
"""The first test of a product also starts it: for a JVM that is most of the usual time on a busy machine."""
EACH = pytest.mark.parametrize(
    "stand", [pytest.param(name, marks=[lane(name), START_LIMIT]) for name in NAMES], indirect=True
)
