"""What may go out on one connection: its window, its socket, and the calls that wait for either, in their order.

A call whose own window is used up is not in the queue: it waits for its peer alone, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

from parley_server.rpc.http2.frames import DEFAULT_WINDOW, MAX_FRAME_BYTES

BATCH_BYTES: Final = 64 * 1024
"""How much is let go at once: about what a socket's buffer takes before it says that it is full."""


class Flow:
    """`window` is what the peer takes in all, in bytes, `max_frame` what it takes in one frame. `busy` says that the
    socket is full or that others wait: who writes must take its turn."""

    __slots__ = ("_granted", "_paused", "_queue", "busy", "max_frame", "window")

    def __init__(self) -> None:
        self.window = DEFAULT_WINDOW
        self.max_frame = MAX_FRAME_BYTES
        self.busy = False
        self._paused = False
        self._queue: OrderedDict[int, tuple[asyncio.Future[None], int]] = OrderedDict()
        self._granted = 0

    @property
    def paused(self) -> bool:
        """Whether the socket's buffer is full."""
        return self._paused

    @property
    def waiting(self) -> int:
        """How many calls are in the queue."""
        return len(self._queue)

    def pause(self) -> None:
        """The socket's buffer is full."""
        self._paused = self.busy = True

    def resume(self) -> None:
        """It has room again."""
        self._paused = False
        self.let_go()

    def is_free(self, size: int) -> bool:
        """Nobody is before a call that wants to write, and something of its `size` would go out."""
        return size > 0 and self.window > 0 and not self.busy

    async def turn(self, stream_id: int, room: asyncio.Future[None], size: int) -> bool:
        """Wait at the queue's end to write `size` bytes. True: it is this call's turn to write one frame
        without awaiting anything, and then to call `done`. False: something else has set `room`."""
        self._queue[stream_id] = (room, size)
        self.let_go()
        granted = False
        try:
            await room
            granted = stream_id not in self._queue
        finally:
            if not granted:
                if self._queue.pop(stream_id, None) is None:  # it was cancelled when it was its turn
                    self._granted -= 1
                self.let_go()
        return granted

    def done(self) -> None:
        """A call has had its turn."""
        self._granted -= 1
        self.let_go()

    def let_go(self) -> None:
        """Give a turn to as many as there is room for, once those have had theirs that were given one before."""
        if not (self._granted or self._paused):
            room = min(self.window, BATCH_BYTES)
            while self._queue and room > 0:
                _, (waiter, size) = self._queue.popitem(last=False)
                if not waiter.done():
                    waiter.set_result(None)
                self._granted += 1
                room -= min(size, self.max_frame)
        self.busy = self._paused or bool(self._queue) or self._granted > 0
