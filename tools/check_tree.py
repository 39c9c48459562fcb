"""Fails if a committed file contains the address of a package registry or a path of one machine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

FORBIDDEN = {
    "address of a package registry": re.compile(
        rb"registry\.(?:npmjs|yarnpkg)\.|//(?:test\.)?pypi\.org/simple|files\.pythonhosted\.|proxy\.golang\.org"
        rb"|repo1?\.maven\.|--(?:extra-)?index-url[= ]"
    ),
    "path of a machine": re.compile(rb"(?<![\w.])/(?:root|work|Users|home/\w+)/"),
}


def main() -> int:
    """Prints each finding as `path:line: what`; returns 1 if there is any."""
    names = subprocess.run(["git", "ls-files", "-z"], check=True, capture_output=True).stdout.split(b"\0")
    findings = [
        f"{path}:{number}: {what}"
        for path in (Path(name.decode()) for name in names if name)
        if path.is_file()
        for number, line in enumerate(path.read_bytes().splitlines(), start=1)
        for what, pattern in FORBIDDEN.items()
        if pattern.search(line)
    ]
    sys.stdout.write("".join(f"{finding}\n" for finding in findings))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
