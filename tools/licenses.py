"""`make licenses`: the licence of each package that the server, the clients, the examples and the page use.

It reads what is installed or locked on this machine: the environment of Python, the lock files of npm, and for Java the
jar of the example with the POM files in Maven's local repository. Fails for a licence that is not in `ALLOWED`.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
MAVEN = Path.home() / ".m2/repository"
JAR = "examples/spring-boot/target/*.jar"
POM = "{http://maven.apache.org/POM/4.0.0}"
ALLOWED: Final = (
    *("Apache", "MIT", "BSD", "ISC", "PSF", "Python Software Foundation", "0BSD", "CC0", "Unlicense"),
    *(
        "MPL",
        "Mozilla",
        "EPL",
        "Eclipse Public",
        "EDL",
        "Eclipse Distribution",
    ),  # apply to changed files, and Parley changes none
)
OWN: Final = re.compile(r"^(@?parley\b.*|dev\.parley.*)$")


@dataclass(frozen=True, order=True)
class Package:
    """One package in one version. `licence` is empty if it names none."""

    kind: str
    name: str
    version: str
    licence: str

    @property
    def is_allowed(self) -> bool:
        """Whether an alternative of the licence (OR) is allowed, which needs all of its parts (AND) to be allowed."""
        choices = re.split(r"\s+OR\s+|;\s*", self.licence.strip("()"))
        return any(all(_is_allowed(each) for each in re.split(r"\s+AND\s+", choice)) for choice in choices)


def main() -> int:
    """Prints the packages by licence, then those that are not allowed; returns 1 if there are any."""
    found = sorted({each for each in (*of_python(), *of_npm(), *of_maven()) if not OWN.match(each.name)})
    for kind in ("python", "npm", "maven"):
        of_kind = [each for each in found if each.kind == kind]
        _say(f"{kind}: {len(of_kind)} packages" + ("" if of_kind else ", because nothing of it is installed"))
        for licence, count in Counter(each.licence for each in of_kind).most_common():
            _say(f"  {count:4}  {licence}")
    wrong = [each for each in found if not each.is_allowed]
    for each in wrong:
        _say(f"not allowed: {each.kind} {each.name} {each.version}: {each.licence or 'no licence'}")
    return 1 if wrong else 0


def of_python() -> Iterator[Package]:
    """The packages of this environment."""
    for each in importlib.metadata.distributions():
        names = [text.rsplit(" :: ", 1)[-1] for text in each.metadata.get_all("Classifier", []) if "License ::" in text]
        stated = {name: each.metadata[name] for name in ("License-Expression", "License") if name in each.metadata}
        licence = stated.get("License-Expression") or "; ".join(names) or stated.get("License", "")
        yield Package("python", each.metadata["Name"], each.version, licence.splitlines()[0] if licence else "")


def of_npm() -> Iterator[Package]:
    """The packages of all lock files."""
    for lock in (*ROOT.glob("clients/*/package-lock.json"), *ROOT.glob("examples/*/package-lock.json")):
        for path, package in json.loads(lock.read_text())["packages"].items():
            name = path.rpartition("node_modules/")[2]
            if path and not package.get("link") and not path.startswith(".."):
                yield Package("npm", name, package["version"], package.get("license", ""))


def of_maven() -> Iterator[Package]:
    """The libraries in the jar of the example, whose POM files Maven has downloaded to build it."""
    for jar in ROOT.glob(JAR):
        with zipfile.ZipFile(jar) as opened:
            names = [Path(name).stem for name in opened.namelist() if name.startswith("BOOT-INF/lib/")]
        for pom in (next(MAVEN.rglob(f"{name}.pom"), None) for name in names if name):
            if pom is not None:
                group = ".".join(pom.relative_to(MAVEN).parts[:-3])
                yield Package("maven", f"{group}:{pom.parts[-3]}", pom.parts[-2], "; ".join(_licences(pom)))


def _licences(pom: Path) -> list[str]:
    """The licences of a POM file; if it has none, those of its parents."""
    document = ElementTree.parse(pom)
    named = [each.text or "" for each in document.iterfind(f"{POM}licenses/{POM}license/{POM}name")]
    parent = document.find(f"{POM}parent")
    if named or parent is None:
        return [name.strip() for name in named]
    group, artifact, version = (parent.findtext(f"{POM}{part}", "") for part in ("groupId", "artifactId", "version"))
    above = MAVEN.joinpath(*group.split("."), artifact, version, f"{artifact}-{version}.pom")
    return _licences(above) if above.exists() else []


def _is_allowed(name: str) -> bool:
    return any(re.search(rf"(?<![A-Za-z]){word}\b", name) for word in ALLOWED) or name in (
        "DFSG approved",
        "Go License",
    )


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
