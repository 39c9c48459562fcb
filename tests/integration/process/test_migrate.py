"""`parley migrate` on a new, a migrated and a missing PostgreSQL database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from parley_server.store.migrate import SCHEMA_RELEASE

from tests.integration.process.test_start import command, messages, refusal
from tests.processes import ServerProcess

RELEASE = f"the schema is at release {SCHEMA_RELEASE}\n"


async def test_a_new_database_is_refused_until_it_is_migrated(tmp_path, empty_postgres_url) -> None:
    database = {"PARLEY_DATABASE_URL": empty_postgres_url}
    assert "parley migrate" in refusal(command(tmp_path, "serve", **database))
    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(lambda _: command(tmp_path, "migrate", **database), range(2)):
            assert (done.returncode, done.stdout, done.stderr) == (0, RELEASE, "")
    async with ServerProcess(tmp_path, **database) as server:
        again = command(tmp_path, "migrate", "--database-url", empty_postgres_url)
        assert (again.returncode, again.stdout) == (0, RELEASE)
        assert await server.health() == "SERVING"
        assert await server.terminate() == 0


@pytest.mark.parametrize("name", ["migrate", "serve"])
def test_a_missing_database_is_reported(tmp_path, empty_postgres_url, name: str) -> None:
    url = empty_postgres_url.replace("parley@", "parley:secret@").rpartition("/")[0] + "/absent"
    output = refusal(command(tmp_path, name, PARLEY_DATABASE_URL=url))
    (line,) = messages(output)
    assert line.startswith(f"parley {name}: ")
    assert "absent" in line
    assert "secret" not in output
