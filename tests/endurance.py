"""What runs in full in CI alone: elsewhere, what proves endurance is repeated less, so that `make test` is short."""

from __future__ import annotations

import os

FULL = bool(os.environ.get("CI") or os.environ.get("PARLEY_TESTS_FULL"))
"""`.ci/run` sets `CI`. `PARLEY_TESTS_FULL=1 make test` does the same without services being required."""


def rounds(full: int, short: int) -> int:
    """How many rounds this run makes."""
    return full if FULL else short
