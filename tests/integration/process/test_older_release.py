"""A rolling upgrade: the code of release 2 runs on the schema of release 3, and this code continues with its data."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from parley.v1 import chat_pb2, chat_pb2_grpc, resources_pb2
from parley_server.store.migrate import SCHEMA_RELEASE, migrate

from tests.integration.process.watching import Watcher, reason_of, script, text_of, words
from tests.needs import missing
from tests.processes import ServerProcess, clean_environment, open_channel, until

RELEASE_2 = "f98d93b11cc8b6e92944f9a99bfd10ea018d5a1e"
"""The last commit whose newest schema release is 2."""
NEW_VALUES = (
    """UPDATE conversation SET context = '{"max_tokens":9,"overflow":"SUMMARIZE","reminder":"r"}'""",
    """UPDATE message SET kept = '{"origin":"o","items":["{}"]}' WHERE role = 'ASSISTANT'""",
    """UPDATE reply SET plan = '{"ignored":["seed"],"prompt_tokens":7}'""",
    "INSERT INTO summary SELECT tenant, conversation_id, id, 'short', 'fast', 1 FROM message",
    "INSERT INTO quota_use (tenant, scope, end_user, period, held_tokens) VALUES ('t', 'user', 'ada', '2026-11', 1)",
)
REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def old_code(tmp_path_factory) -> str:
    """The `PYTHONPATH` of release 2's code."""
    folder = tmp_path_factory.mktemp("release-2")
    packed = subprocess.run(
        ["git", "archive", RELEASE_2, "service", "clients/python/src"], cwd=REPOSITORY, capture_output=True, check=False
    )
    if packed.returncode:
        missing(f"commit {RELEASE_2[:7]} (this clone is shallow)", "git fetch --unshallow")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed.stdout, check=True)
    return f"{folder / 'service'}{os.pathsep}{folder / 'clients' / 'python' / 'src'}"


def release_of(code: str) -> int:
    """The newest schema release of the code in this `PYTHONPATH`."""
    program = "from parley_server.store.migrate import SCHEMA_RELEASE; print(SCHEMA_RELEASE)"
    environment = clean_environment(PYTHONPATH=code)
    return int(subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True).stdout)


async def send(server: ServerProcess, text: str, *, conversation_id: str = "") -> Watcher:
    """Send a message and read its reply to the end."""
    watcher = Watcher(request(text, conversation_id=conversation_id))
    async with open_channel(server.address) as channel:
        await watcher.start(chat_pb2_grpc.ChatStub(channel))
    return watcher


def request(text: str, *, conversation_id: str = "") -> chat_pb2.ReplyRequest:
    return chat_pb2.ReplyRequest(request_id=str(uuid.uuid4()), conversation_id=conversation_id, text=text)


async def stream_and_kill(server: ServerProcess) -> Watcher:
    """Start a reply and kill the server as soon as some text is durable."""
    watcher = Watcher(request(script(words("late", 5000), delay_s=0.02)))
    async with open_channel(server.address) as channel:
        following = asyncio.create_task(watcher.start(chat_pb2_grpc.ChatStub(channel)))
        await until(lambda: journaled(server), "a checkpoint")
        await server.kill9()
        await following
    return watcher


async def journaled(server: ServerProcess) -> bool:
    return server.rows("SELECT count(*) FROM checkpoint") != [(0,)]


def write_values_of_release_3(folder: Path) -> None:
    """Write values that the older release does not have."""
    with sqlite3.connect(folder / "parley.db") as connection:
        for change in NEW_VALUES:
            assert connection.execute(change).rowcount, change
    connection.close()


async def stored(server: ServerProcess, watcher: Watcher) -> resources_pb2.Reply:
    async with open_channel(server.address) as channel:
        return await chat_pb2_grpc.ChatStub(channel).GetReply(chat_pb2.GetReplyRequest(reply_id=watcher.reply_id))


@pytest.mark.parametrize("migrated", [True, False], ids=["new schema first", "old schema first"])
async def test_the_previous_release_and_this_one_can_use_a_database_alternately(tmp_path, old_code, migrated) -> None:
    """The schema is migrated under the older code, as in a rolling upgrade, or by this code's own start."""
    assert release_of(old_code) == 2
    server = ServerProcess(tmp_path, PYTHONPATH=old_code)
    if migrated:
        await asyncio.to_thread(migrate, server.environment["PARLEY_DATABASE_URL"])
    async with server:
        assert server.rows("SELECT release FROM schema_release") == [(SCHEMA_RELEASE if migrated else 2,)]
        first = await send(server, script("one two"))
        assert (first.text, first.terminal is not None) == ("one two", True)
        cut = await stream_and_kill(server)

    del server.environment["PYTHONPATH"]
    async with server:
        assert server.rows("SELECT release FROM schema_release") == [(SCHEMA_RELEASE,)]
        assert text_of(await stored(server, first)) == "one two"
        left = await stored(server, cut)
        assert reason_of(left.error) == "OWNER_LOST"
        assert text_of(left)
        assert cut.text.startswith(text_of(left)) or text_of(left).startswith(cut.text)
        second = await send(server, script("three"), conversation_id=first.conversation_id)
        assert second.text == "three"
        assert await server.terminate() == 0

    if not migrated:
        return
    write_values_of_release_3(tmp_path)
    server.environment["PYTHONPATH"] = old_code
    async with server:
        assert text_of(await stored(server, second)) == "three"
        third = await send(server, script("four"), conversation_id=first.conversation_id)
        assert third.text == "four"
        assert await server.terminate() == 0
