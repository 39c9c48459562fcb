"""The core's replicas."""

from tests.unit.core.conftest import cluster, prepared_engines, store, template

__all__ = ["cluster", "prepared_engines", "store", "template"]
