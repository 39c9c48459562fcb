"""Only the user of the server can read the files of the database, with any umask."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest
from parley.v1 import chat_pb2, chat_pb2_grpc

from tests.integration.process.test_start import command
from tests.integration.process.watching import Watcher, script, words
from tests.processes import ServerProcess, open_channel, until

PARLEY_FILES = {"parley.db", "parley.db-wal", "parley.db-shm", "parley.db.lock", "parley.db.tail0"}
OWNER_ALONE = "0o600"


@pytest.fixture(params=[0o000, 0o022, 0o277], ids=oct)
def umask(request):
    """The umask of this process and of processes that it starts."""
    before = os.umask(request.param)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, str]:
    """The permissions of Parley's files in a folder."""
    return {each.name: oct(stat.S_IMODE(each.stat().st_mode)) for each in folder.glob("parley.db*")}


async def all_files(server: ServerProcess) -> dict[str, str]:
    """The permissions of PARLEY_FILES while a reply runs, as only then all of them exist.

    A file has fewer permissions for a moment if the umask takes them from its owner, too."""
    async with open_channel(server.address) as channel:
        running = Watcher(chat_pb2.ReplyRequest(text=script(words("w", 2000), delay_s=0.05)))
        call = asyncio.create_task(running.start(chat_pb2_grpc.ChatStub(channel)))

        async def usable() -> dict[str, str] | None:
            found = modes(server.folder)
            is_whole = found.keys() >= PARLEY_FILES and all(int(mode, 8) & 0o200 for mode in found.values())
            return found if is_whole else None

        found: dict[str, str] = await until(usable, f"files {PARLEY_FILES}")
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    return found


async def test_serve_creates_files_that_only_the_owner_can_read(tmp_path, umask) -> None:
    tmp_path.chmod(0o755)
    async with ServerProcess(tmp_path) as server:
        assert await all_files(server) == dict.fromkeys(PARLEY_FILES, OWNER_ALONE)


def test_migrate_creates_files_that_only_the_owner_can_read(tmp_path, umask) -> None:
    assert command(tmp_path, "migrate").returncode == 0
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
