"""The lock that keeps other processes out of a SQLite database."""

import os
import re
import signal
import subprocess
import sys

import pytest
from parley_server.store.engine.location import StoreUnusable
from parley_server.store.engine.lock import DatabaseLock

HOLD = """
import sys
from pathlib import Path
from parley_server.store.engine.lock import DatabaseLock
DatabaseLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_refusal_of_a_second_process_names_the_holder(path, holder):
    with pytest.raises(StoreUnusable) as refused:
        DatabaseLock(path).acquire()
    holder_said = rf"process {holder.pid} on {re.escape(os.uname().nodename)} since 20\d\d-.*\+00:00"
    said = rf"the database is in use by {holder_said} \({re.escape(str(path))}.lock\)"
    assert re.fullmatch(said, str(refused.value))


def test_a_killed_holder_frees_the_lock(path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with DatabaseLock(path):
        assert f"process {os.getpid()} on " in path.with_name("parley.db.lock").read_text()


def test_a_second_lock_of_the_same_process_is_refused(path):
    first = DatabaseLock(path)
    first.acquire()
    with pytest.raises(StoreUnusable, match=f"process {os.getpid()}"):
        DatabaseLock(path).acquire()
    first.release()
    first.release()
    with DatabaseLock(path):
        pass


def test_a_lock_in_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(StoreUnusable, match="cannot be opened: No such file"):
        DatabaseLock(tmp_path / "missing" / "parley.db").acquire()
