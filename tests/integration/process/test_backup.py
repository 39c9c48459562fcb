"""Backups under traffic and restores of both databases, by the commands of docs/backup.md, run as they are written."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

from parley.v1 import chat_pb2, resources_pb2
from parley_server.store.engine.sqlite_backup import back_up

from tests.cluster import Cluster
from tests.commands import blocks
from tests.integration.process.test_start import command, refusal
from tests.integration.process.watching import Watcher, reason_of, script, text_of, words
from tests.integration.served import Caller
from tests.processes import CHANNEL_OPTIONS, PARLEY, ServerProcess, clean_environment, until
from tests.tools import ROOT, tool
from tests.upstream import Upstream

PAGE = (ROOT / "docs/backup.md").read_text()
COMMANDS = [line.strip() for block in blocks(PAGE.replace("\n   ", "\n"), "sh") for line in block.splitlines()]
BACKUP, EMPTY_FOLDER, MOVE_AWAY, PUT, DUMP, CREATE, RESTORE, FLUSH, MIGRATE = COMMANDS
LONG = words("long", 3000)


async def shell(*lines: str, **variables: str) -> None:
    """Run lines of the page."""
    environment = clean_environment(**variables)
    environment["PATH"] = os.pathsep.join([str(Path(PARLEY).parent), environment["PATH"]])
    done = await asyncio.to_thread(
        subprocess.run,
        ["bash", "-c", "set -euo pipefail\n" + "\n".join(lines)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, ""), done


class Traffic:
    """Callers that write to the server continuously, and one reply that runs until the end. `answered`: the texts of
    the replies whose end their caller has received, by conversation."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self.answered: dict[str, list[str]] = {}
        self.long = Watcher(chat_pb2.ReplyRequest(text=script(LONG, delay_s=0.02), model="scripted"))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Yield once each caller has an answer and the long reply has text; at the end, wait for further answers."""
        tasks = [asyncio.create_task(self._chat()) for _ in range(3)]
        tasks.append(asyncio.create_task(self.long.start(self._caller.chat)))
        try:
            await until(self._has_begun, "answers and text", limit_s=30)
            yield
            counts = {conversation: len(texts) for conversation, texts in self.answered.items()}
            await until(lambda: self._all_have_more(counts), "each caller gets further answers")
            assert [task for task in tasks if task.done()] == []
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _has_begun(self) -> bool:
        return len(self.answered) == 3 and len(self.long.text) > 1000

    async def _all_have_more(self, counts: dict[str, int]) -> bool:
        return all(len(self.answered[conversation]) > count for conversation, count in counts.items())

    async def _chat(self) -> None:
        conversation = ""
        while True:
            text = f"answer {uuid.uuid4()}"
            reply = await self._caller.create(
                script(text, delay_s=0.02), conversation_id=conversation, model="scripted", wait=20.0
            )
            conversation = reply.conversation_id
            assert text_of(reply) == text
            self.answered.setdefault(conversation, []).append(text)


async def answers_of(caller: Caller, conversation: str) -> list[str]:
    """The texts of all answers, oldest first."""
    answers, token = list[str](), ""
    while True:
        page = await caller.messages(conversation, page_token=token)
        answers += [text_of_message(message) for message in page.messages if message.reply_id]
        token = page.next_page_token
        if not token:
            return answers[::-1]


def text_of_message(message: resources_pb2.Message) -> str:
    return "".join(part.text for part in message.parts)


async def assert_restored(caller: Caller, before: dict[str, list[str]], traffic: Traffic) -> None:
    """Check that all answers received before the backup are stored, and that the long reply has ended with its text."""
    for conversation, texts in before.items():
        answers = await answers_of(caller, conversation)
        assert answers[: len(texts)] == texts
        extra = answers[len(texts) :]  # the end of a reply is stored before its caller receives it
        assert extra == traffic.answered[conversation][len(texts) :][: len(extra)]
    long = await caller.get(traffic.long.reply_id)
    assert reason_of(long.error) == "OWNER_LOST"
    assert len(text_of(long)) > 100
    assert LONG.startswith(text_of(long))
    again = await caller.create(
        script("again", delay_s=0.001), conversation_id=long.conversation_id, model="scripted", wait=20.0
    )
    assert text_of(again) == "again"


def test_the_page_has_each_command_in_order() -> None:
    assert [line.split()[0] for line in COMMANDS] == [
        "parley", "mkdir", "find", "install", "pg_dump", "createdb", "pg_restore", "redis-cli", "parley",
    ]  # fmt: skip


async def test_a_sqlite_backup_under_traffic_has_all_stored_conversations(tmp_path: Path) -> None:
    config = '[providers.s]\nkind = "scripted"\n[models.scripted]\nprovider = "s"\nname = "scripted"\n'
    backups = tmp_path / "backups"
    backups.mkdir()
    async with ServerProcess(tmp_path / "server", toml=config, forked=True) as server:
        url = {"PARLEY_DATABASE_URL": server.environment["PARLEY_DATABASE_URL"], "BACKUPS": str(backups)}
        caller = Caller(server.port, options=CHANNEL_OPTIONS)
        traffic = Traffic(caller)
        async with traffic.running():
            before = {conversation: list(texts) for conversation, texts in traffic.answered.items()}
            await shell(BACKUP, **url)
        [backup] = backups.iterdir()
        assert stat.S_IMODE(backup.stat().st_mode) == 0o600
        await server.kill9()
        data = str(server.folder)
        await shell(EMPTY_FOLDER, MOVE_AWAY, PUT, DATA=data, BACKUP=str(backup))
        beside = {path.name for path in server.folder.iterdir()}
        assert beside == {"before-restore", "parley.db", "parley.db.lock", "parley.toml"}
        assert stat.S_IMODE(server.database.stat().st_mode) == 0o600
        await server.start()
        await assert_restored(caller, before, traffic)
        await caller.channel.close()


def test_a_backup_has_all_commits_and_no_open_transaction(tmp_path: Path) -> None:
    """Commits that are only in the write-ahead log are copied; the backup does not wait for an open transaction."""
    source = tmp_path / "parley.db"
    with closing(sqlite3.connect(source, isolation_level=None)) as writer:
        writer.execute("PRAGMA journal_mode = WAL").fetchone()
        writer.execute("PRAGMA wal_autocheckpoint = 0").fetchone()
        writer.execute("CREATE TABLE t (a TEXT)")
        writer.execute("INSERT INTO t VALUES ('committed')")
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO t VALUES ('open')")
        back_up(source, tmp_path / "copy.db")
        writer.execute("COMMIT")
        assert writer.execute("SELECT count(*) FROM t").fetchone() == (2,)
    (tmp_path / "alone").mkdir()
    alone = (tmp_path / "copy.db").rename(tmp_path / "alone" / "copy.db")
    assert alone.read_bytes()[18:20] == b"\1\1", "the copy needs a write-ahead log, and so a second file"
    with closing(sqlite3.connect(f"file:{alone}?mode=ro&immutable=1", uri=True)) as copy:
        assert copy.execute("SELECT a FROM t").fetchall() == [("committed",)]
    assert [path.name for path in alone.parent.iterdir()] == ["copy.db"]


def test_a_failed_backup_overwrites_no_file_and_leaves_none(tmp_path: Path) -> None:
    assert "there is no database at" in refusal(command(tmp_path, "backup", "copy.db"))
    with closing(sqlite3.connect(tmp_path / "parley.db")) as database:
        database.execute("CREATE TABLE t (a TEXT)")
        database.execute("INSERT INTO t VALUES ('kept')")
        database.commit()
    (tmp_path / "copy.db").write_text("mine")
    assert "copy.db exists, and is not overwritten" in refusal(command(tmp_path, "backup", "copy.db"))
    assert (tmp_path / "copy.db").read_text() == "mine"
    assert ". exists, and is not overwritten" in refusal(command(tmp_path, "backup", "."))
    (tmp_path / "other.db.partial").touch()
    assert "other.db.partial exists: another backup" in refusal(command(tmp_path, "backup", "other.db"))
    assert (tmp_path / "other.db.partial").exists(), "it may belong to a backup that runs"
    done = command(tmp_path, "backup", "missing/copy.db")
    assert (done.returncode, done.stdout) == (1, "")
    assert "No such file or directory" in done.stderr
    with (tmp_path / "parley.db").open("r+b") as database:
        database.seek(4096)
        database.write(b"\xff" * 4096)
    done = command(tmp_path, "backup", "damaged.db")
    assert (done.returncode, "damaged" in done.stderr or "malformed" in done.stderr) == (1, True), done
    assert sorted(path.name for path in tmp_path.iterdir() if "damaged" in path.name) == []
    postgresql = command(tmp_path, "backup", "copy2.db", PARLEY_DATABASE_URL="postgresql+asyncpg://ada@db/parley")
    assert "use pg_dump" in refusal(postgresql)


async def test_a_postgresql_dump_under_traffic_restores_with_an_empty_redis(
    tmp_path: Path, shared_postgres, shared_redis
) -> None:
    for program in ("pg_dump", "pg_restore", "createdb", "redis-cli"):
        tool(program)
    async with (
        Upstream() as upstream,
        Cluster(tmp_path, shared_postgres, shared_redis, upstream, replicas=1) as cluster,
    ):
        traffic = Traffic(cluster.caller(0))
        database = shared_postgres.url(cluster.database).replace("+asyncpg", "")
        places = {
            "DATABASE": database,
            "BACKUP": str(tmp_path / "parley.dump"),
            "SERVER": shared_postgres.url("postgres").replace("+asyncpg", ""),
            "RESTORED": shared_postgres.url("parley_restored").replace("+asyncpg", ""),
            "REDIS": shared_redis.url(),
            "PARLEY_DATABASE_URL": shared_postgres.url("parley_restored"),
        }
        async with traffic.running():
            before = {conversation: list(texts) for conversation, texts in traffic.answered.items()}
            await shell(DUMP, **places)
        await cluster.kill9(0)
        try:
            await shell(CREATE, RESTORE, FLUSH, MIGRATE, **places)
            assert shared_redis.command("DBSIZE") == 0
            cluster[0].environment["PARLEY_DATABASE_URL"] = places["PARLEY_DATABASE_URL"]
            await cluster.start(0)
            caller = cluster.caller(0)

            async def has_ended() -> bool:
                return bool((await caller.get(traffic.long.reply_id)).HasField("error"))

            await until(has_ended, "the running reply is taken over", limit_s=30)
            await assert_restored(caller, before, traffic)
            await cluster.kill9(0)
        finally:
            await asyncio.to_thread(shared_postgres.drop_database, "parley_restored")
