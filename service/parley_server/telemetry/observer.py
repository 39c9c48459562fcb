"""The observer of a server: metrics for all events, and a log line for each call and each reply."""

from __future__ import annotations

from parley_server.core.model import Reply
from parley_server.core.observer import CallEnded
from parley_server.telemetry.logs import log_admin_call, log_call, log_reply
from parley_server.telemetry.metrics import Metrics

ADMIN_METHODS = "/parley.v1.Admin/"
ADMIN_READS = frozenset(ADMIN_METHODS + name for name in ("GetStatus", "ListProviderKeys", "ListUsage"))
"""The methods of Admin that change nothing, which monitoring may call every few seconds."""


class Telemetry(Metrics):
    """Counts and logs events. A call of Admin has an audit line, too, unless it has only read. Implements the ports of
    `core.observer`, except `LoopLoad`."""

    def reply_ended(self, reply: Reply, *, overhead_s: float, text_length: int) -> None:
        super().reply_ended(reply, overhead_s=overhead_s, text_length=text_length)
        log_reply(reply, overhead_s=overhead_s, text_length=text_length)

    def call_ended(self, call: CallEnded) -> None:
        super().call_ended(call)
        log_call(call)
        has_only_read = call.method in ADMIN_READS and call.code == "OK"
        if call.method.startswith(ADMIN_METHODS) and not has_only_read:
            log_admin_call(call)
