"""Ended replies leave no reference cycles, which would stay in memory until Python collects its oldest generation:
minutes to hours at a moderate load."""

import collections
import gc

import pytest
from parley_server.core.clock import _LoopTimer
from parley_server.core.replies.generate import Generation
from parley_server.core.replies.log import Log
from parley_server.core.replies.sink import LogSink
from parley_server.providers.policies.attempt import Attempt
from parley_server.rpc.stream import Stream

from tests.clock import until
from tests.upstream import answer, refusal

REPLIES = 12
KINDS = (Generation, LogSink, Log, Stream, Attempt, _LoopTimer)


@pytest.fixture
def without_collections():
    """Disables the garbage collector, so that reference cycles stay."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def count() -> collections.Counter[str]:
    """The number of objects of each of KINDS."""
    return collections.Counter(type(each).__name__ for each in gc.get_objects() if isinstance(each, KINDS))


async def test_ended_replies_leave_no_reference_cycles(serve, upstream, without_collections):
    server = await serve(ended_logs_ttl_s=1, ended_logs_max_bytes=1)
    for number in range(REPLIES):
        upstream.reply_with(refusal(400) if number % 4 == 3 else answer("one", " two"))
        if number % 4 == 3:  # not a stream, whose abort raises an error that refers to it
            await server.create()
            continue
        watch = server.stream()
        if number % 3:
            await watch.end()
        else:
            await watch.accepted()
            watch.call.cancel()
            await watch.end()
    await until(lambda: not server.running)
    await until(lambda: not count() & collections.Counter(Generation=1, LogSink=1, Stream=1, Attempt=1))
    left = count()
    assert left["Log"] <= 2, left
    assert left["_LoopTimer"] <= 4, left  # those of the server's own background tasks
