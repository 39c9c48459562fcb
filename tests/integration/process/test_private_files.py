"""Only the user of the server can read the files of the database, with any umask."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from pathlib import Path

import pytest
from parley.v1 import chat_pb2, chat_pb2_grpc

from tests.integration.process.watching import Watcher, script, words
from tests.processes import ServerProcess, clean_environment, open_channel, until

PARLEY_FILES = {"parley.db", "parley.db-wal", "parley.db-shm", "parley.db.lock", "parley.db.tail0"}
OWNER_ALONE = "0o600"


@pytest.fixture(params=[0o000, 0o022, 0o277], ids=oct)
def umask(request):
    """Of this process, and of what it starts."""
    before = os.umask(request.param)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, str]:
    """The permissions of Parley's files in a folder."""
    return {each.name: oct(stat.S_IMODE(each.stat().st_mode)) for each in folder.glob("parley.db*")}


async def all_files(server: ServerProcess) -> dict[str, str]:
    """Their permissions, while a reply runs: then all of them are there."""
    async with open_channel(server.address) as channel:
        running = Watcher(chat_pb2.ReplyRequest(text=script(words("w", 2000), delay_s=0.05)))
        call = asyncio.create_task(running.start(chat_pb2_grpc.ChatStub(channel)))

        async def there() -> bool:
            return modes(server.folder).keys() >= PARLEY_FILES

        await until(there, f"files {PARLEY_FILES}")
        found = modes(server.folder)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    return found


async def migrated(folder: Path) -> None:
    """Make the database's files by `parley migrate`."""
    url = f"sqlite+aiosqlite:///{folder / 'parley.db'}"
    command = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("parley"),
        *("migrate", "--database-url", url),
        env=clean_environment(),
        cwd=folder,
        stdout=asyncio.subprocess.DEVNULL,
    )
    assert await command.wait() == 0


async def test_serve_creates_files_that_only_the_owner_can_read(tmp_path, umask) -> None:
    tmp_path.chmod(0o755)
    async with ServerProcess(tmp_path) as server:
        assert await all_files(server) == dict.fromkeys(PARLEY_FILES, OWNER_ALONE)


async def test_migrate_creates_files_that_only_the_owner_can_read(tmp_path, umask) -> None:
    await migrated(tmp_path)
    assert set(modes(tmp_path).values()) == {OWNER_ALONE}


async def test_readable_files_lose_other_permissions_at_the_next_start(tmp_path) -> None:
    async with ServerProcess(tmp_path) as server:
        await all_files(server)
        await server.kill9()
        assert modes(tmp_path).keys() >= PARLEY_FILES
        for name in PARLEY_FILES:
            (tmp_path / name).chmod(0o664)
        await server.start()
        assert await all_files(server) == dict.fromkeys(PARLEY_FILES, OWNER_ALONE)
