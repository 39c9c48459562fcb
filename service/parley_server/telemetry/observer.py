"""The observer of a server: metrics for all events, and a log line for each call and each reply."""

from __future__ import annotations

from parley_server.core.model import Reply
from parley_server.core.observer import CallEnded
from parley_server.telemetry.logs import log_admin_call, log_call, log_reply
from parley_server.telemetry.metrics import Metrics

ADMIN_METHODS = "/parley.v1.Admin/"


class Telemetry(Metrics):
    """Counts and logs events. Calls of Admin have an audit line, too. Implements the
    ports of `core.observer`, except `LoopLoad`."""

    def reply_ended(self, reply: Reply, *, overhead_s: float, text_length: int) -> None:
        super().reply_ended(reply, overhead_s=overhead_s, text_length=text_length)
        log_reply(reply, overhead_s=overhead_s, text_length=text_length)

    def call_ended(self, call: CallEnded) -> None:
        super().call_ended(call)
        log_call(call)
        if call.method.startswith(ADMIN_METHODS):
            log_admin_call(call)
