"""Whether a client has ever reached a server, and how its errors say that it cannot."""

from __future__ import annotations

import asyncio

import grpc

from parley.errors import ParleyError, Unavailable

_READY = grpc.ChannelConnectivity.READY
# A channel whose connection was lost goes idle; one that could not connect does not.
_LOST = grpc.ChannelConnectivity.IDLE
# The codes of a call that has got no answer.
_OF_TRANSPORT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


class Reach:
    """Of one channel; shared by all clients that use it."""

    def __init__(self, channel: grpc.aio.Channel, address: str, *, tls: bool) -> None:
        self._channel = channel
        self._address = address
        self._tls = tls
        self.reached = False

    def look(self) -> bool:
        """Whether a server has been reached by now. Call it only after an attempt to connect."""
        self.reached = self.reached or self._channel.get_state() in (_READY, _LOST)
        return self.reached

    def bound(self, scope: asyncio.Timeout, left_s: float) -> asyncio.TimerHandle:
        """Ends a time limit early, once `left_s` have passed and no server has ever been reached."""
        loop = asyncio.get_running_loop()

        def give_up() -> None:
            if not self.look():
                scope.reschedule(loop.time())

        return loop.call_later(left_s, give_up)

    def explain(self, error: ParleyError) -> ParleyError:
        """In place of a transport's own words, that no server is there; other errors as they are."""
        if error.reason or error.code not in _OF_TRANSPORT:
            self.reached = True
            return error
        if error.code is grpc.StatusCode.UNAVAILABLE:
            return self.unavailable()
        # A short time limit may pass while the channel is idle because it has not tried to connect: only READY counts.
        self.reached = self.reached or self._channel.get_state() is _READY
        return error if self.reached else self._no_server()

    def unavailable(self) -> Unavailable:
        """The error of a call that cannot reach a server. Call it only after an attempt to connect."""
        if self.look():
            return _unavailable(f"the Parley server at {self._address} cannot be reached")
        return self._no_server()

    def _no_server(self) -> Unavailable:
        with_tls = "; with TLS, the client must trust its certificate" if self._tls else ""
        return _unavailable(f"no Parley server at {self._address}; start one with `parley serve`{with_tls}")


def _unavailable(message: str) -> Unavailable:
    return Unavailable(message, code=grpc.StatusCode.UNAVAILABLE, retryable=True)
