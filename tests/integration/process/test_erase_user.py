"""`parley erase-user` and `parley rotate-keys` on a SQLite file, without a running server."""

import json

from parley.v1 import chat_pb2_grpc
from parley_server.secrets.fernet import new_encryption_key

from tests.integration.process.test_start import command, refusal
from tests.integration.served import ask
from tests.processes import ServerProcess, open_channel

ADA = [("x-end-user", "ada")]
MARK = "MARK-7f3a91bc"


async def test_a_user_is_erased_with_the_running_reply_of_a_killed_server(tmp_path):
    erase = ("erase-user", "--tenant", "default", "ada")
    async with ServerProcess(tmp_path) as server:
        database = {"PARLEY_DATABASE_URL": server.environment["PARLEY_DATABASE_URL"]}
        async with open_channel(server.address) as channel:
            chat = chat_pb2_grpc.ChatStub(channel)
            for metadata in (ADA, [("x-end-user", "ben")]):
                _ = [chunk async for chunk in chat.StreamReply(ask(MARK), metadata=metadata)]
            stalled = ask(f'/script {{"text": "{MARK}", "fault": {{"kind": "stall", "after": 1}}}}')
            call = chat.StreamReply(stalled, metadata=ADA)
            await call.read()
            assert "the database is in use" in refusal(command(tmp_path, *erase, **database))
            await server.kill9()
        done = command(tmp_path, *erase, **database)
        assert (done.returncode, done.stdout.splitlines()) == (
            0,
            ["2 conversations", "2 replies", "2 request_ids", "0 quotas", "1 usage"],
        )
        audit = json.loads(done.stderr)
        assert (audit["event"], audit["method"], audit["outcome"]) == ("audit", "erase-user", "OK")
        await server.start()
        for table in ("conversation", "message", "reply"):
            assert server.rows(f"SELECT DISTINCT end_user FROM {table}") == [("ben",)]
        assert sorted(server.rows("SELECT end_user FROM usage")) == [("ben",), (audit["name"],)]
        assert await server.terminate() == 0


async def test_key_commands_report_missing_keys_and_databases(tmp_path):
    assert "PARLEY_ENCRYPTION_KEYS is not set" in command(tmp_path, "rotate-keys").stderr
    key = command(tmp_path, "encryption-key").stdout.strip()
    assert key != new_encryption_key()
    done = command(tmp_path, "rotate-keys", PARLEY_ENCRYPTION_KEYS=key)
    assert (done.returncode, "there is no database" in done.stderr) == (2, True)
    assert command(tmp_path, "erase-user", "--tenant", "", "ada").returncode == 2
