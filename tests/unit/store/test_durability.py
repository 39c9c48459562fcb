"""Acknowledged writes survive kill -9 completely, and queries use indexes."""

import asyncio
import re
import signal
import sqlite3
import subprocess
import sys

import pytest
from parley_server.core.model import State
from parley_server.core.store_types import ConversationFilter, MessageFilter, Position
from parley_server.store import open_store
from sqlalchemy import event

from tests.contract.store_values import (
    ADA,
    SHOP,
    acceptance,
    accepted,
    answered,
    chain,
    checkpoint,
    created,
    finalisation,
)

WRITE_FOR_EVER = """
import asyncio, sys
from parley_server.store import open_store
from tests.contract.store_values import accepted, checkpoint, created, finalisation

async def talk(store):
    while True:
        reply = await accepted(store, await created(store))
        print("accepted", reply.id, flush=True)
        await store.append_checkpoints([checkpoint(reply, "some", "text")])
        print("journaled", reply.id, flush=True)
        await store.finalise(finalisation(reply))
        print("ended", reply.id, flush=True)

async def main():
    store = open_store(sys.argv[1])
    await store.start()
    await asyncio.gather(*(talk(store) for _ in range(8)))

asyncio.run(main())
"""


async def test_acknowledged_writes_survive_kill_9(url, path):
    process = subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, url], stdout=subprocess.PIPE, text=True)
    lines = [process.stdout.readline() for _ in range(300)]
    process.send_signal(signal.SIGKILL)
    lines += process.communicate()[0].splitlines(keepends=True)
    said = {tuple(line.split()) for line in lines if line.endswith("\n")}
    assert len(said) >= 300
    store = open_store(url)
    await store.start()
    left = {each.reply.id: each for each in await store.unfinished(1000)}
    for word, reply_id in said:
        reply = await store.get_reply(ADA, reply_id)
        if word == "ended":
            assert reply.state is State.COMPLETED
            assert reply.message is not None
        elif word == "journaled" and not reply.state.terminal:
            assert left[reply_id].durable_sequence == 2
    await store.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    halves = "SELECT count(*) FROM reply WHERE state = 'COMPLETED' AND id NOT IN (SELECT reply_id FROM usage)"
    assert connection.execute(halves).fetchone() == (0,)
    connection.close()


async def test_no_query_reads_a_whole_table(store, path):
    """Every statement of the port's methods uses an index."""
    seen: dict[str, object] = {}

    def note(_connection, _cursor, statement, parameters, _context, executemany) -> None:
        if not statement.startswith(("BEGIN", "PRAGMA")):
            seen[statement] = parameters[0] if executemany else parameters

    for engine in (store._database.writer, store._database.reader):
        event.listen(engine, "before_cursor_execute", note)
    conversation = await created(store, ADA, *chain("a", "b"), labels={"a": "b"}, request_id="c")
    running = await accepted(store, conversation)
    await store.append_checkpoints([checkpoint(running, "x")])
    await store.unfinished(10)
    await store.unfinished_ids()
    await store.standings([running.id])
    await store.hold_lease("me", 1.0)
    await store.take_over("other", 5)
    await store.release_lease("me")
    (taken,) = await store.unfinished(1)
    await store.finalise(finalisation(taken.reply))
    current = await store.get_conversation(ADA, conversation.id)
    await answered(store, current, parent=conversation.head_message_id, request_id="again")
    await store.find_request(ADA, "again", 0)
    await store.accept(acceptance(current))
    await store.get_reply(ADA, running.id)
    await store.read_turn(ADA, conversation.id, Position(replace=running.message_id), has_input=True)
    for identity in (ADA, SHOP):
        await store.list_conversations(identity, ConversationFilter(words=("a",), labels={"a": "b"}), 5)
        await store.list_conversations(identity, ConversationFilter(before=(5, "x")), 5)
    for all_branches in (False, True):
        which = MessageFilter(conversation_id=conversation.id, all_branches=all_branches)
        await store.list_messages(ADA, which, 5)
    await store.delete_conversation(ADA, conversation.id, "")
    assert len(seen) > 25

    connection = sqlite3.connect(path)
    scans = {}
    for statement, parameters in seen.items():
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
        scanned = [
            step
            for step in plan
            if re.match(r"SCAN (?!branch|expired|theirs|replica|\(|CONSTANT)", step) and "INDEX" not in step
        ]
        if scanned:
            scans[statement] = plan
    connection.close()
    assert scans == {}


async def test_ten_tasks_use_one_store_concurrently(store):
    """A cancelled caller does not affect the results of the others."""
    conversations = [await created(store) for _ in range(10)]
    tasks = [asyncio.ensure_future(accepted(store, each)) for each in conversations]
    await asyncio.sleep(0)
    tasks[4].cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes[4], asyncio.CancelledError)
    assert [each.conversation_id for number, each in enumerate(outcomes) if number != 4] == [
        each.id for number, each in enumerate(conversations) if number != 4
    ]
    assert len(await store.unfinished_ids()) == 10


@pytest.mark.parametrize("durable", [True, False])
async def test_a_second_store_reads_what_the_first_wrote(url, durable):
    store = open_store(url)
    await store.start()
    reply = await accepted(store, await created(store))
    if durable:
        await store.close()
    other = open_store(url)
    await other.start()
    assert await other.get_reply(ADA, reply.id) == reply
    await other.close()
    await store.close()
