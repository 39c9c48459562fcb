"""Adds up the usage of a database as the job of a server does, in processes that kill themselves at one step.

Arguments: the URL of the database, the rows of a call. For each number in standard input it starts a process that is
killed at this step, and prints how the process ended: a status, or minus a signal. The beginning and the end of each
statement are steps, and so is the beginning of each commit. A process that has added everything ends with status 0.
"""

import asyncio
import itertools
import os
import signal
import sys

from parley_server.store import open_store
from sqlalchemy import Engine, event

url, rows = sys.argv[1], int(sys.argv[2])


def kill_at(last_step: int) -> None:
    steps = itertools.count(1)

    def step(*_: object) -> None:
        if next(steps) == last_step:
            os.kill(os.getpid(), signal.SIGKILL)

    for name in ("before_cursor_execute", "after_cursor_execute", "commit"):
        event.listen(Engine, name, step)


async def add_up(last_step: int) -> None:
    store = open_store(url)
    await store.start()
    kill_at(last_step)
    while await store.roll_usage(rows):
        pass
    await store.close()


for line in sys.stdin:
    # A fork saves the imports of a new program, which take longer than its work.
    if (child := os.fork()) == 0:
        asyncio.run(add_up(int(line)))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
