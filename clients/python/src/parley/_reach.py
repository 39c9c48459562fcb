"""Detects whether a client has ever reached a server, and words the errors of unreachable servers."""

from __future__ import annotations

import asyncio

import grpc

from parley.errors import ParleyError, Unavailable

_READY = grpc.ChannelConnectivity.READY
# A channel becomes idle when its connection is lost, but not when it could not connect.
_LOST = grpc.ChannelConnectivity.IDLE
# The codes of a call without an answer from a server.
_OF_TRANSPORT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


class Reach:
    """The state of one channel, shared by all clients that use it."""

    def __init__(self, channel: grpc.aio.Channel, address: str, *, tls: bool) -> None:
        self._channel = channel
        self._address = address
        self._tls = tls
        self.reached = False

    def look(self) -> bool:
        """Updates and returns `reached`. Call it only after an attempt to connect."""
        self.reached = self.reached or self._channel.get_state() in (_READY, _LOST)
        return self.reached

    def bound(self, scope: asyncio.Timeout, left_s: float) -> asyncio.TimerHandle:
        """Expires the timeout `scope` after `left_s` if no server has been reached by then."""
        loop = asyncio.get_running_loop()

        def give_up() -> None:
            if not self.look():
                scope.reschedule(loop.time())

        return loop.call_later(left_s, give_up)

    def explain(self, error: ParleyError) -> ParleyError:
        """Replaces an error of the transport by one that names the server's address; returns other errors unchanged."""
        if error.reason or error.code not in _OF_TRANSPORT:
            self.reached = True
            return error
        if error.code is grpc.StatusCode.UNAVAILABLE:
            return self.unavailable()
        # Only READY counts here: the time limit may have passed before an idle channel tried to connect.
        self.reached = self.reached or self._channel.get_state() is _READY
        return error if self.reached else self._no_server()

    def unavailable(self) -> Unavailable:
        """Returns the error of a call that cannot reach a server. Call it only after an attempt to connect."""
        if self.look():
            return _unavailable(f"the Parley server at {self._address} cannot be reached")
        return self._no_server()

    def _no_server(self) -> Unavailable:
        with_tls = "; with TLS, the client must trust its certificate" if self._tls else ""
        return _unavailable(f"no Parley server at {self._address}; start one with `parley serve`{with_tls}")


def _unavailable(message: str) -> Unavailable:
    return Unavailable(message, code=grpc.StatusCode.UNAVAILABLE, retryable=True)
