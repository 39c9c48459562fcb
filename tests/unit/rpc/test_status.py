"""The wait of an error is shown in RetryInfo as a decimal number, without the errors of binary fractions."""

from __future__ import annotations

import math

import pytest
from google.protobuf.duration_pb2 import Duration
from parley_server.core.model import ReplyError
from parley_server.errors import Reason
from parley_server.rpc.status import MAX_WAIT_S, error_message


def wait(seconds):
    error = ReplyError(reason=Reason.RATE_LIMITED, message="wait", retryable=True, retry_after_s=seconds)
    message = error_message(error)
    return message.retry_after if message.HasField("retry_after") else None


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (57.925, Duration(seconds=57, nanos=925_000_000)),
        (0.001, Duration(nanos=1_000_000)),
        (0.9999999, Duration(seconds=1)),
        (0.0, Duration()),
        (1e300, Duration(seconds=int(MAX_WAIT_S))),
        (None, None),
        (-1.0, None),
        (math.nan, None),
        (math.inf, None),
    ],
)
def test_the_wait_of_an_error(seconds, shown):
    assert wait(seconds) == shown
