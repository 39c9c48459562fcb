"""The core's replicas."""

from tests.unit.core.conftest import cluster, store, template

__all__ = ["cluster", "store", "template"]
