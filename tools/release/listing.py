"""Lists the files of a release with sizes and checksums."""

from __future__ import annotations

import hashlib

from tools.release.artifacts import Build

CHECKSUMS, CONTENTS = "SHA256SUMS", "CONTENTS.txt"


def write_listing(build: Build) -> None:
    """Write SHA256SUMS, as `sha256sum --check` reads it, and CONTENTS.txt for people."""
    files = sorted(path for path in build.output.rglob("*") if path.is_file())
    names = [str(path.relative_to(build.output)) for path in files]
    sums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    (build.output / CHECKSUMS).write_text("".join(f"{sum_}  {name}\n" for sum_, name in zip(sums, names, strict=True)))
    lines = [f"Parley {build.version}, commit {build.commit}", *build.remarks, ""]
    lines += [f"{path.stat().st_size:>12,}  {name}" for path, name in zip(files, names, strict=True)]
    (build.output / CONTENTS).write_text("\n".join(lines) + "\n")
