"""`python -m tools.release` in a repository of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.release.programs import copy_tree, output_of
from tools.release.artifacts import PARTS

VERSION = "0.0.7"
OTHERS = [name for name, _ in PARTS if name != "protos"]
"""The parts that this test leaves out, since they take long."""


@pytest.fixture
def repository(tmp_path):
    """A commit of this tree with another version and its part of the changelog."""
    copy_tree(tmp_path)
    output_of(sys.executable, "-m", "tools.release", "--set", VERSION, cwd=tmp_path)
    changelog = tmp_path / "CHANGELOG.md"
    changelog.write_text(f"# Changelog\n\n## {VERSION}\n\n- Chats.\n\n## 0.0.6\n\n- Nothing.\n")
    identity = ("-c", "user.name=nobody", "-c", "user.email=nobody@localhost")
    output_of("git", "init", "--quiet", cwd=tmp_path)
    output_of("git", "add", "--all", cwd=tmp_path)
    output_of("git", *identity, "commit", "--quiet", "--message", "all", cwd=tmp_path)
    return tmp_path


def release(repository):
    """Run the command without the parts of `OTHERS`."""
    without = [word for name in OTHERS for word in ("--without", name)]
    command = [sys.executable, "-m", "tools.release", VERSION, *without]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True)


def test_a_release_has_notes_a_listing_and_checksums(repository) -> None:
    done = release(repository)
    assert done.returncode == 0, done.stderr
    built = repository / "dist" / VERSION
    assert {str(path.relative_to(built)) for path in built.rglob("*") if path.is_file()} == {
        *("RELEASE-NOTES.md", "SHA256SUMS", "CONTENTS.txt"),
        *(f"protos/parley-protos-{VERSION}.zip", f"protos/parley-{VERSION}.binpb"),
    }
    assert (built / "RELEASE-NOTES.md").read_text() == f"# Parley {VERSION}\n\n- Chats.\n"
    commit = output_of("git", "rev-parse", "HEAD", cwd=repository).strip()
    listing = (built / "CONTENTS.txt").read_text()
    assert listing.splitlines()[: 1 + len(OTHERS)] == [
        f"Parley {VERSION}, commit {commit}",
        *(f"without {name}" for name in OTHERS),
    ]
    assert f"protos/parley-{VERSION}.binpb" in listing
    output_of("sha256sum", "--check", "--strict", "SHA256SUMS", cwd=built)


def test_a_refused_release_leaves_nothing(repository) -> None:
    (repository / "LICENSE").write_text("changed")
    done = release(repository)
    assert done.returncode == 1
    assert done.stderr.startswith("no release: the tree has changes that are not committed:\nM LICENSE")
    assert not (repository / "dist").exists()
