"""When the recordings are read: where a variable names their folder, and only as the folder that is expected."""

import os
import subprocess
import sys
from pathlib import Path

from tests.recordings.folder import ANSWERS, OTHER_DIALECTS, STREAMS, VARIABLE, differences, recordings

SUITE = "tests/recordings/test_chat_completions.py"


def test_without_a_folder_the_suite_is_skipped_with_one_line(pytestconfig):
    """In a process of its own, since the suite looks for its folder when it is imported."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", SUITE],
        cwd=pytestconfig.rootpath,
        env={name: value for name, value in os.environ.items() if name != VARIABLE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 5, run.stdout  # pytest's status where it ran no test
    skipped = [line for line in run.stdout.splitlines() if line.startswith("SKIPPED")]
    assert len(skipped) == 1
    assert skipped[0].endswith(f"{VARIABLE} names no folder of recorded answers")


def test_the_environment_alone_names_the_folder(tmp_path):
    assert recordings({VARIABLE: str(tmp_path)}) == tmp_path
    assert recordings({VARIABLE: ""}) is None
    assert recordings({}) is None


def test_a_folder_with_another_number_of_files_is_found_out(tmp_path):
    folder = _expected_folder(tmp_path)
    assert differences(folder) == []
    Path(folder, "xai", "one more.sse").touch()
    assert differences(folder) == [
        f"{ANSWERS + 1} recorded answers instead of {ANSWERS}",
        f"{STREAMS['xai'] + 1} streams of xai instead of {STREAMS['xai']}",
    ]


def test_a_listed_stream_that_is_not_there_is_found_out(tmp_path):
    folder = _expected_folder(tmp_path)
    listed = Path(folder, f"{next(iter(OTHER_DIALECTS))}.sse")
    listed.rename(listed.with_name("renamed.sse"))
    assert differences(folder) == [f"{listed.relative_to(folder)} is listed and not there"]


def test_a_folder_that_is_not_there_is_found_out(tmp_path):
    assert f"0 recorded answers instead of {ANSWERS}" in differences(tmp_path / "absent")


def _expected_folder(folder):
    """As many empty files as there must be, with those that are listed."""
    for vendor, count in STREAMS.items():
        listed = [Path(f"{name}.sse").name for name in OTHER_DIALECTS if name.startswith(f"{vendor}/")]
        Path(folder, vendor).mkdir()
        for name in [*listed, *[f"{number}.sse" for number in range(count - len(listed))]]:
            Path(folder, vendor, name).touch()
    Path(folder, "anthropic").mkdir()
    for number in range(ANSWERS - sum(STREAMS.values())):
        Path(folder, "anthropic", f"{number}.sse").touch()
    Path(folder, "openai", "0.meta.json").touch()
    return folder
