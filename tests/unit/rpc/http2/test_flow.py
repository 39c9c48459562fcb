"""Turns on one connection: in order, no more than there is room for, and none is lost."""

from __future__ import annotations

import asyncio
import random

import pytest
from parley_server.rpc.http2.flow import BATCH_BYTES, Flow
from parley_server.rpc.http2.frames import MAX_FRAME_BYTES


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


class Writers:
    """Calls that write, each for its turn."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.wrote: list[int] = []
        self.rooms: dict[int, asyncio.Future[None]] = {}
        self.tasks: dict[int, asyncio.Task[bool]] = {}

    def add(self, number: int, size: int) -> None:
        self.rooms[number] = asyncio.get_running_loop().create_future()
        self.tasks[number] = asyncio.create_task(self._write(number, size))

    async def _write(self, number: int, size: int) -> bool:
        granted = await self.flow.turn(number, self.rooms[number], size)
        if granted:
            self.wrote.append(number)
            self.flow.window -= min(size, self.flow.window)
            self.flow.done()
        return granted


async def test_a_turn_comes_at_once_where_there_is_room():
    flow = Flow()
    writers = Writers(flow)
    assert flow.is_free(1)
    writers.add(1, 100)
    await settle()
    assert (writers.wrote, flow.window, flow.busy, flow.waiting) == ([1], 65_435, False, 0)


async def test_turns_come_in_order_as_the_window_opens():
    flow = Flow()
    flow.window = 0
    writers = Writers(flow)
    for number in range(4):
        writers.add(number, 10)
    await settle()
    assert (writers.wrote, flow.busy, flow.waiting) == ([], True, 4)
    for number in range(3):
        flow.window += 10
        flow.let_go()
        await settle()
        assert writers.wrote == list(range(number + 1))
    writers.add(9, 10)
    await settle()
    flow.window += 20
    flow.let_go()
    await settle()
    assert (writers.wrote, flow.busy) == ([0, 1, 2, 3, 9], False)


async def test_no_more_are_let_go_than_a_buffer_takes():
    flow = Flow()
    flow.pause()
    writers = Writers(flow)
    flow.window = 10 * BATCH_BYTES
    for number in range(10):
        writers.add(number, MAX_FRAME_BYTES)
    await settle()
    flow.resume()
    assert flow.waiting == 10 - BATCH_BYTES // MAX_FRAME_BYTES
    flow.pause()
    await settle()
    assert len(writers.wrote) == BATCH_BYTES // MAX_FRAME_BYTES


async def test_nobody_goes_while_the_socket_is_full():
    flow = Flow()
    writers = Writers(flow)
    flow.pause()
    assert not flow.is_free(1)
    writers.add(1, 10)
    await settle()
    flow.let_go()
    await settle()
    assert writers.wrote == []
    flow.resume()
    assert flow.busy  # until the one that was waiting has gone
    await settle()
    assert (writers.wrote, flow.busy) == ([1], False)


@pytest.mark.parametrize("granted", [False, True])
async def test_a_cancelled_writer_passes_its_turn_on(granted):
    flow = Flow()
    flow.window = 0
    writers = Writers(flow)
    writers.add(1, 10)
    writers.add(2, 10)
    await settle()
    flow.window = 10
    if granted:
        flow.let_go()
    writers.tasks[1].cancel()
    if not granted:
        flow.let_go()
    await settle()
    assert (writers.wrote, flow.waiting, flow.busy) == ([2], 0, False)


async def test_a_writer_that_is_told_otherwise_has_no_turn():
    flow = Flow()
    flow.window = 0
    writers = Writers(flow)
    writers.add(1, 10)
    await settle()
    writers.rooms[1].set_result(None)
    await settle()
    assert writers.tasks[1].result() is False
    assert (flow.waiting, flow.busy) == (0, False)


async def test_none_is_lost_in_any_order():
    """Random writers, cancels, windows and pauses: in the end everyone has had a turn or was cancelled."""
    chance = random.Random(7)
    for _ in range(200):
        flow = Flow()
        flow.window = chance.choice([0, 5, 100])
        writers, cancelled = Writers(flow), set()
        for number in range(chance.randint(1, 12)):
            writers.add(number, chance.randint(1, 30))
            step = chance.random()
            if step < 0.2:
                flow.pause()
            elif step < 0.4:
                flow.resume()
            elif step < 0.6:
                flow.window += chance.randint(1, 20)
                flow.let_go()
            elif step < 0.8:
                cancelled.add(chance.randint(0, number))
                writers.tasks[max(cancelled)].cancel()
            if chance.random() < 0.5:
                await asyncio.sleep(0)
        flow.resume()
        for _ in range(40):
            flow.window += 30
            flow.let_go()
            await settle()
        assert all(task.done() for task in writers.tasks.values())
        assert (flow.waiting, flow.busy) == (0, False)
