"""Which calls of Admin have an audit line."""

from __future__ import annotations

import logging

import pytest
from google.protobuf.descriptor_pb2 import MethodOptions
from parley.v1 import admin_pb2
from parley_server.core.observer import CallEnded
from parley_server.telemetry.observer import ADMIN_METHODS, ADMIN_READS, Telemetry

METHODS = admin_pb2.DESCRIPTOR.services_by_name["Admin"].methods


def audited(caplog: pytest.LogCaptureFixture, method: str, code: str) -> bool:
    """Whether a call that ended like this has an audit line."""
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="parley.audit"):
        Telemetry().call_ended(CallEnded(method=method, code=code, duration_s=0.1))
    return "audit" in caplog.messages


def test_the_calls_that_only_read_are_those_without_side_effects_in_the_protocol() -> None:
    without_effects = {
        ADMIN_METHODS + method.name
        for method in METHODS
        if method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
    }
    assert without_effects == ADMIN_READS


@pytest.mark.parametrize("method", [method.name for method in METHODS])
def test_each_change_and_each_refused_call_of_admin_is_audited(caplog: pytest.LogCaptureFixture, method: str) -> None:
    name = ADMIN_METHODS + method
    assert audited(caplog, name, "OK") is (name not in ADMIN_READS)
    assert audited(caplog, name, "PERMISSION_DENIED")
    assert audited(caplog, name, "UNAVAILABLE")


def test_calls_of_other_services_are_not_audited(caplog: pytest.LogCaptureFixture) -> None:
    assert not audited(caplog, "/parley.v1.Chat/GetReply", "PERMISSION_DENIED")
