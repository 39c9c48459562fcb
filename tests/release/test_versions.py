"""The version has one place, VERSION, which all others repeat."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tools.release import versions
from tools.release.checks import Refused, check_tree, notes_of
from tools.release.versions import ROOT, current, disagreements, write


@pytest.fixture
def tree(tmp_path):
    """A copy of the files that have the version, and of the changelog, as a repository with one commit."""
    for name in ("VERSION", "CHANGELOG.md", *versions._PLACES, *versions._JAVA_PLACES):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    return tmp_path


def git(tree, *arguments):
    """Run git as nobody."""
    identity = ("-c", "user.name=nobody", "-c", "user.email=nobody@localhost")
    subprocess.run(["git", *identity, *arguments], cwd=tree, check=True, capture_output=True)


def commit(tree):
    """Commit all files."""
    git(tree, "add", "--all")
    git(tree, "commit", "--quiet", "--message", "all")


def test_all_places_have_the_version_of_the_file() -> None:
    assert disagreements() == []


@pytest.mark.parametrize("name", [*versions._PLACES, *versions._JAVA_PLACES])
def test_another_version_in_any_place_is_found(tree, name) -> None:
    path = tree / name
    path.write_text(path.read_text().replace(current(), "77.0.1"))
    assert {each.partition(":")[0] for each in disagreements(tree)} == {name}


@pytest.mark.parametrize("snapshot", [True, False])
def test_a_new_version_is_written_to_all_places(tree, snapshot) -> None:
    write("3.20.1", tree, snapshot=snapshot)
    assert (current(tree), disagreements(tree)) == ("3.20.1", [])
    assert ("3.20.1-SNAPSHOT" in (tree / "README.md").read_text()) is snapshot


@pytest.mark.parametrize("version", ["1.2", "1.2.3.4", "v1.2.3", "1.2.3-rc1", "01.2.3", ""])
def test_other_forms_of_versions_are_refused(tree, version) -> None:
    with pytest.raises(ValueError, match=r"X\.Y\.Z"):
        write(version, tree, snapshot=True)
    with pytest.raises(Refused, match=r"X\.Y\.Z"):
        check_tree(version, tree)
    assert disagreements(tree) == []


def test_a_release_needs_a_clean_tree_of_its_version(tree) -> None:
    check_tree(current(), tree)
    with pytest.raises(Refused, match=f"the tree has version {current()}"):
        check_tree("77.0.1", tree)
    (tree / "new.txt").write_text("new")
    with pytest.raises(Refused, match=r"not committed:\n\?\? new.txt"):
        check_tree(current(), tree)


def test_a_release_is_newer_than_all_others(tree) -> None:
    git(tree, "tag", "v0.0.9")
    git(tree, "tag", "vendored")
    check_tree(current(), tree)
    git(tree, "tag", "v0.10.0")
    with pytest.raises(Refused, match=r"not newer than the tag v0\.10\.0"):
        check_tree(current(), tree)


def test_the_notes_of_a_release_are_its_part_of_the_changelog(tree) -> None:
    (tree / "CHANGELOG.md").write_text("# Changelog\n\n## 2.0.0\n\n- b\n\n## [1.0.0] 2026-01-01\n\n- a\n\n## 0.9.0\n")
    assert notes_of("1.0.0", tree) == "# Parley 1.0.0\n\n- a\n"
    for version in ("0.9.0", "3.0.0"):
        with pytest.raises(Refused, match=f"heading '## {version}'"):
            notes_of(version, tree)
