"""The version of Parley: the file VERSION has it, and every other place repeats it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VERSION = ROOT / "VERSION"
FORM = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
SNAPSHOT = "-SNAPSHOT"
"""Maven's suffix of a version between releases."""

# In each file, the groups are what precedes and what follows the version.
_JAVA = r"(<artifactId>parley-parent</artifactId>\s*<version>)[^<]+(</version>)"
_LOCKED = r'("name": "@parley/client",\s+"version": ")[^"]+(")'
_PLACES = {
    "pyproject.toml": (r'^(version = ")[^"]+(")', r'("parley-client(?:\[asgi\])?==)[^"]+(")'),
    "service/parley_server/__init__.py": (r'^(__version__ = ")[^"]+(")',),
    "clients/python/pyproject.toml": (r'^(version = ")[^"]+(")',),
    "clients/node/package.json": (r'^(  "version": ")[^"]+(")',),
    "clients/node/package-lock.json": (_LOCKED,),
    "examples/express/package-lock.json": (_LOCKED,),
    "examples/vision/package-lock.json": (_LOCKED,),
    "deploy/helm/parley/Chart.yaml": (r"^(version: )\S+()$", r'^(appVersion: ")[^"]+(")'),
}
_JAVA_PLACES = {
    "clients/java/pom.xml": (_JAVA,),
    "clients/java/parley-client/pom.xml": (_JAVA,),
    "clients/java/parley-spring-boot-starter/pom.xml": (_JAVA,),
    "clients/java/spring-boot-3/pom.xml": (_JAVA,),
    "clients/java/conformance/pom.xml": (_JAVA,),
    "clients/java/README.md": (r"(<artifactId>parley-client</artifactId>\s*<version>)[^<]+(</version>)",),
    "examples/spring-boot/pom.xml": (
        r"(<artifactId>parley-example-spring-boot</artifactId>\s*<version>)[^<]+(</version>)",
        r"(<parley.version>)[^<]+(</parley.version>)",
    ),
    "README.md": (r"(<artifactId>parley-spring-boot-starter</artifactId><version>)[^<]+(</version>)",),
}


def current(root: Path = ROOT) -> str:
    """The version of the tree."""
    return (root / "VERSION").read_text().strip()


def write(version: str, root: Path = ROOT, *, snapshot: bool) -> None:
    """Set the version in all places. Raises ValueError for one that is not X.Y.Z, or if a place is not found.

    `snapshot`: Maven's version is one between releases."""
    if not FORM.fullmatch(version):
        raise ValueError(f"{version!r} is not a version of the form X.Y.Z")
    (root / "VERSION").write_text(f"{version}\n")
    for places, value in ((_PLACES, version), (_JAVA_PLACES, version + SNAPSHOT * snapshot)):
        for name, patterns in places.items():
            text = (root / name).read_text()
            for pattern in patterns:
                text, count = re.subn(pattern, rf"\g<1>{value}\g<2>", text, flags=re.MULTILINE)
                if not count:
                    raise ValueError(f"{name} has no version at {pattern}")
            (root / name).write_text(text)


def disagreements(root: Path = ROOT) -> list[str]:
    """The places whose version is another one than that of VERSION, with the version that they have."""
    wanted, found = current(root), []
    for places, allowed in ((_PLACES, {wanted}), (_JAVA_PLACES, {wanted, wanted + SNAPSHOT})):
        for name, patterns in places.items():
            text = (root / name).read_text()
            for pattern in patterns:
                # The version is what the pattern matches between its two groups.
                values = [match[0][len(match[1]) : len(match[0]) - len(match[2])] for match in _matches(pattern, text)]
                found += [f"{name}: {value}" for value in values or ["none"] if value not in allowed]
    return found


def _matches(pattern: str, text: str) -> list[re.Match[str]]:
    return list(re.finditer(pattern, text, flags=re.MULTILINE))
