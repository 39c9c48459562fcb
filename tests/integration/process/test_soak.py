"""Many short replies with cancels, disconnects and resumes leave memory, tasks, files and rows bounded."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections import Counter

import parley
import pytest
from parley.v1 import chat_pb2, chat_pb2_grpc

from tests.integration.process.watching import Watcher, script, words
from tests.processes import MIB, ServerProcess, clean_environment, open_channel, until

ROUND = 100
ROUNDS = 4
GROWTH_BYTES = 12 * MIB
STORE_CONNECTIONS = 3
WAYS = ["read", "cancel", "leave", "leave and cancel", "abandon channel", "fail", "poll", "early cancel"]
SETTINGS = """
[server]
ended_logs_ttl_s = 1
disconnect_cancel_s = 0.2
"""


async def one_reply(server: ServerProcess, chance: random.Random, shared: chat_pb2_grpc.ChatStub) -> str:
    """Start a reply and end it in a random way; returns that way."""
    how = chance.choice(WAYS)
    whole = words("word", chance.randrange(1, 40))
    fault = {"kind": "error", "after": 5} if how == "fail" else None
    request = chat_pb2.ReplyRequest(text=script(whole, delay_s=chance.choice([0, 0.005, 0.02]), fault=fault))
    if how == "leave and cancel":
        request.on_disconnect = chat_pb2.DISCONNECT_POLICY_CANCEL
    if how == "poll":
        async with parley.Client(server.address) as client:
            started = await client.create_reply(request, wait_s=0)
            async for _ in client.polls(started.id, gather_s=0.05):
                pass
        return how
    if how == "early cancel":
        call = shared.StreamReply(request)
        await asyncio.sleep(chance.uniform(0, 0.01))
        call.cancel()
        return how
    if how == "abandon channel":
        async with open_channel(server.address) as channel:
            await chat_pb2_grpc.ChatStub(channel).StreamReply(request).read()
        return how
    watcher = Watcher(request)
    following = asyncio.create_task(watcher.start(shared))
    if how not in ("read", "fail"):
        await watcher.has_accepted.wait()
        if how == "cancel":
            await shared.Cancel(chat_pb2.CancelRequest(reply_id=watcher.reply_id))
        else:
            following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    return how


@pytest.mark.timeout(120)
async def test_memory_tasks_and_files_do_not_grow_in_a_soak(tmp_path) -> None:
    seed = random.randrange(1 << 31)
    print(f"seed {seed}")
    chance, ways = random.Random(seed), Counter()
    async with ServerProcess(tmp_path, toml=SETTINGS) as server:

        async def settled() -> tuple[int, Counter[str]]:
            """Memory and open files once there are no replies, readers and connections of callers."""
            await server.idle()

            async def only_this_channel() -> bool:
                return server.open_files().count("socket") <= sockets + 1

            await until(only_this_channel, "callers' sockets are closed")
            return server.rss_bytes(), Counter(server.open_files())

        await server.metrics()
        sockets = server.open_files().count("socket")
        states = []
        async with open_channel(server.address) as channel:
            shared = chat_pb2_grpc.ChatStub(channel)
            for _ in range(ROUNDS):
                for _ in range(ROUND // 10):
                    ways.update(await asyncio.gather(*(one_reply(server, chance, shared) for _ in range(10))))
                states.append(await settled())
            assert server.rows("SELECT count(*) FROM reply WHERE state IN ('PENDING', 'STREAMING')") == [(0,)]
            assert server.rows("SELECT count(*) FROM checkpoint") == [(0,)]
            ended = dict(server.rows("SELECT state, count(*) FROM reply GROUP BY 1"))
        print(dict(ways), ended, [f"{rss / MIB:.1f} MiB" for rss, _ in states], states[-1][1])
        first, last = states[0], states[-1]
        assert last[0] - first[0] < GROWTH_BYTES, "memory grows with the number of replies"
        of_store = {
            str(server.database),
            f"{server.database}-wal",
        }  # the store opens them when it first uses a connection
        assert all(last[1][each] <= STORE_CONNECTIONS for each in of_store)
        assert {each: last[1][each] for each in last[1].keys() - of_store} == {
            each: first[1][each] for each in first[1].keys() - of_store
        }, "files stay open"
        assert sum(ended.values()) >= ROUND * ROUNDS - ways["early cancel"]
        assert {"COMPLETED", "CANCELLED", "FAILED"} == set(ended)
        assert not [each for each in server.events() if each["level"] == "error"]
        assert await server.terminate() == 0


def test_the_demo_shows_every_step(tmp_path) -> None:
    command = [sys.executable, "-m", "parley_server.cli.demo"]
    environment = clean_environment(TMPDIR=str(tmp_path))
    demo = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (demo.returncode, demo.stderr) == (0, ""), demo.stdout
    steps = ("1. StreamReply", "the second reader has the same", "2. The connection is cut", "both halves together")
    steps += ("3. Cancel", "finished: CANCELLED (user pressed stop)", "what is stored is what was streamed: ok")
    places = [demo.stdout.find(step) for step in steps]
    assert places == sorted(places)
    assert places[0] >= 0
    assert not list(tmp_path.iterdir()), "the demo left files"
