"""Builds everything that a release publishes into dist/VERSION, from a clean copy of the last commit.

python -m tools.release VERSION                  build, check, list, with checksums
python -m tools.release --set VERSION            set the version in all places of this tree, Maven's as a snapshot
python -m tools.release VERSION --without java   leave a part out (python, node, java, chart, protos, image)

Signatures of Maven's artifacts are made with gpg's default key, or that of GPG_KEY. Without a secret key, they are made
with a key of this run, and the list of the release says so: such a release must not be published.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tools.release.artifacts import PARTS, Build
from tools.release.checks import Refused, check_tree, notes_of
from tools.release.listing import write_listing
from tools.release.versions import ROOT, write


def main() -> int:
    """Exit status 1 with a reason if the release cannot be made; dist/ has no new files then."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.release", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("version", help="X.Y.Z")
    parser.add_argument("--set", action="store_true", help="set the version in all places of this tree, and stop")
    parser.add_argument("--without", action="append", choices=[name for name, _ in PARTS], default=[], metavar="PART")
    parser.add_argument("--to", type=Path, default=ROOT / "dist", help="the folder to build into (default: dist)")
    options = parser.parse_args()
    try:
        if options.set:
            write(options.version, snapshot=True)
            return 0
        release(options.version, options.to, options.without)
    except (Refused, ValueError) as refused:
        print(f"no release: {refused}", file=sys.stderr)
        return 1
    return 0


def release(version: str, to: Path, without: list[str]) -> None:
    """Build all parts into `to`/VERSION."""
    check_tree(version)
    notes = notes_of(version)
    with tempfile.TemporaryDirectory(prefix="parley-release-") as folder:
        build = Build(version, Path(folder))
        build.copy_of_commit()
        (build.output / "RELEASE-NOTES.md").write_text(notes)
        for name, make in PARTS:
            if name in without:
                build.remark(f"without {name}")
                continue
            print(f"==> {name}", flush=True)
            make(build)
        write_listing(build)
        target = to / version
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(build.output, target)
    print((target / "CONTENTS.txt").read_text())


if __name__ == "__main__":
    sys.exit(main())
