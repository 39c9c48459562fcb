"""The conditions for a release."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tools.release.versions import FORM, ROOT, current, disagreements


class Refused(Exception):
    """The release cannot be made; the message is the reason."""


def check_tree(version: str, root: Path = ROOT) -> None:
    """Raises `Refused` for a version that is not that of the tree, or is not newer than all tags, and for a tree with
    changes."""
    if not FORM.fullmatch(version):
        raise Refused(f"{version!r} is not a version of the form X.Y.Z")
    if version != current(root):
        raise Refused(f"the tree has version {current(root)}: python -m tools.release --set {version}, then commit")
    if different := disagreements(root):
        raise Refused(f"places have another version than VERSION: {', '.join(different)}")
    if changed := git(root, "status", "--porcelain").strip():
        raise Refused(f"the tree has changes that are not committed:\n{changed}")
    newest = max(
        (_numbers(tag) for tag in git(root, "tag", "--list", "v*").split() if FORM.fullmatch(tag[1:])), default=()
    )
    if newest and _numbers(f"v{version}") <= newest:
        raise Refused(f"{version} is not newer than the tag v{'.'.join(map(str, newest))}")


def notes_of(version: str, root: Path = ROOT) -> str:
    """The changelog's part about this version. Raises `Refused` if there is none, or if it is empty."""
    changelog = (root / "CHANGELOG.md").read_text()
    parts = re.split(r"^## ", changelog, flags=re.MULTILINE)
    for part in parts[1:]:
        heading, _, text = part.partition("\n")
        if heading.split()[0].strip("[]") == version and text.strip():
            return f"# Parley {version}\n\n{text.strip()}\n"
    raise Refused(f"CHANGELOG.md has no part with the heading '## {version}'")


def git(root: Path, *arguments: str) -> str:
    """The output of a git command."""
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


def _numbers(tag: str) -> tuple[int, ...]:
    return tuple(int(number) for number in tag[1:].split("."))
