"""Copies the tree of which tests build a release, and runs the programs that use it."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

from tests.processes import clean_environment
from tests.tools import ROOT

FOLDERS = {"service", "clients", "protos", "deploy", "examples", "tools"}
"""What a release is built from, or has its version."""
JVM = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
"""Options for programs that run too shortly for the JVM's second compiler."""


def copy_tree(target: Path) -> None:
    """Copy the files that `make release` needs, with changes that are not committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if (name.split("/")[0] in FOLDERS or "/" not in name) and (ROOT / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)


def output_of(*command: object, cwd: Path | None = None, **environment: str) -> str:
    """What a program prints to standard output and standard error; it must succeed."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=clean_environment(**environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def digest(content: bytes) -> str:
    """SHA-256 as `sha256sum` prints it."""
    return hashlib.sha256(content).hexdigest()
