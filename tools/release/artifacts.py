"""Builds each part of a release from a clean copy of the last commit, and checks what was built."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.release.checks import Refused, git
from tools.release.versions import ROOT, write

LOCAL_KEY = "Parley, a key of one run <nobody@localhost>"
SSH_ADDRESS = re.compile(r"^(\w+@[\w.-]+):(?=\w)")


class Build:
    """A release that is being built. `source`: the copy of the commit. `output`: the folder of the published files."""

    def __init__(self, version: str, folder: Path) -> None:
        self.version = version
        self.source, self.output, self.scratch = folder / "source", folder / "output", folder / "scratch"
        for each in (self.source, self.output, self.scratch):
            each.mkdir()
        self.commit = git(ROOT, "rev-parse", "HEAD").strip()
        self.remarks: list[str] = []

    def copy_of_commit(self) -> None:
        """Unpack the last commit, with Maven's version set to that of the release."""
        packed = subprocess.run(["git", "archive", self.commit], cwd=ROOT, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", str(self.source)], input=packed, check=True)
        write(self.version, self.source, snapshot=False)

    def remark(self, line: str) -> None:
        """Add a line to the head of CONTENTS.txt."""
        self.remarks.append(line)

    def folder(self, name: str) -> Path:
        """A folder of `output`."""
        made = self.output / name
        made.mkdir(exist_ok=True)
        return made

    def run(self, *command: str | Path, at: str = "", **environment: str) -> str:
        """Run a command in the copy; returns its output. Raises `Refused` with the output if it fails."""
        done = subprocess.run(
            [str(word) for word in command],
            cwd=self.source / at,
            env=os.environ | environment,
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise Refused(f"{' '.join(map(str, command))} failed:\n{(done.stdout + done.stderr)[-4000:]}")
        return done.stdout


def make_python(build: Build) -> None:
    """Wheels and source archives of the server and the client, and the server's list of packages."""
    target = build.folder("python")
    for package in ("clients/python", "."):
        backend = "from setuptools import build_meta as b; import sys; print(b.build_sdist(sys.argv[1]))"
        archive = build.run(sys.executable, "-c", backend, target, at=package).split()[-1]
        build.run(  # from the source archive, which therefore has all that a wheel needs
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
            *("--disable-pip-version-check", "--wheel-dir", target, target / archive),
        )
    names = {path.name for path in target.iterdir()}
    ends = (".tar.gz", "-py3-none-any.whl")
    wanted = {f"parley_{name}-{build.version}{end}" for name in ("server", "client") for end in ends}
    if names != wanted:
        raise Refused(f"built {sorted(names)} in place of {sorted(wanted)}")
    for wheel in target.glob("*.whl"):
        _check_wheel(wheel)
    _write_constraints(build, target)
    _list_packages(build, target)


def _write_constraints(build: Build, target: Path) -> None:
    """The tree's constraints.txt, and Parley's own packages with the hashes of the files in `target`."""
    text = (build.source / "constraints.txt").read_text()
    for package in ("parley-client", "parley-server"):
        files = sorted(target.glob(f"{package.replace('-', '_')}-{build.version}*"))
        hashes = [f"--hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files]
        text += " \\\n    ".join([f"{package}=={build.version}", *hashes]) + "\n"
    (target / "constraints.txt").write_text(text)


def _list_packages(build: Build, target: Path) -> None:
    """Install the server as users do, with hashes, into a new environment; write which packages that has."""
    environment = build.scratch / "server"
    build.run(sys.executable, "-m", "venv", "--without-pip", environment)
    pip = (sys.executable, "-m", "pip", "--python", environment / "bin/python", "--disable-pip-version-check")
    constraints = ("--constraint", target / "constraints.txt", "--find-links", target)
    build.run(*pip, "install", "--quiet", "--require-hashes", *constraints, f"parley-server=={build.version}")
    build.run(*pip, "check")
    if (printed := build.run(environment / "bin/parley", "--version")) != f"parley {build.version}\n":
        raise Refused(f"the installed server says {printed!r}")
    bill = target / f"parley-server-{build.version}.cdx.json"
    cyclonedx = (sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible")
    build.run(*cyclonedx, "--output-file", bill, environment / "bin/python")
    if "parley-server" not in {each["name"] for each in json.loads(bill.read_text())["components"]}:
        raise Refused(f"{bill.name} does not list the server")


def _check_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = archive.namelist()
        (metadata,) = (name for name in files if name.endswith(".dist-info/METADATA"))
        text = archive.read(metadata).decode()
    package = "parley_server" if "server" in wheel.name else "parley"
    missing = [name for name in (f"{package}/py.typed", f"{package}/__init__.py") if name not in files]
    if package == "parley_server":
        wanted = ("ui/page/index.html", "providers/models.toml", "store/migrations/env.py")
        missing += [name for name in wanted if f"parley_server/{name}" not in files]
    if missing:
        raise Refused(f"{wheel.name} lacks {', '.join(missing)}")
    fields = ("License-Expression: Apache-2.0", "Requires-Python: >=3.11", "Description-Content-Type: text/markdown")
    for field in fields:
        if field not in text:
            raise Refused(f"the metadata of {wheel.name} lacks {field!r}")


def make_node(build: Build) -> None:
    """The npm package, and its list of packages."""
    target = build.folder("node")
    build.run("npm", "ci", "--no-audit", "--no-fund", "--loglevel=error", at="clients/node")
    build.run("npm", "pack", "--silent", "--pack-destination", target, at="clients/node")
    bill = build.run("npm", "sbom", "--omit=dev", "--sbom-format=cyclonedx", at="clients/node")
    (target / f"parley-client-{build.version}.cdx.json").write_text(_corrected(bill, "@parley/client"))
    with tarfile.open(target / f"parley-client-{build.version}.tgz") as archive:
        names = set(archive.getnames())
    modules = ("index", "express", "fastify", "v1")
    missing = {f"package/dist/{name}.{end}" for name in modules for end in ("js", "d.ts")} - names
    if missing:
        raise Refused(f"the npm package lacks {', '.join(sorted(missing))}")


def _corrected(bill: str, package: str) -> str:
    """A list of npm's under the name of its package instead of that of its folder, and with addresses such as
    `git@host:path` as URLs, which CycloneDX requires."""
    content = json.loads(bill)
    content["metadata"]["component"]["name"] = package
    for component in content["components"]:
        for reference in component.get("externalReferences", ()):
            reference["url"] = SSH_ADDRESS.sub(r"ssh://\1/", reference["url"])
    return json.dumps(content, indent=2) + "\n"


def make_java(build: Build) -> None:
    """A Maven repository with the client and the starter: jars, sources, documentation, signatures."""
    target = build.folder("maven")
    key = os.environ.get("GPG_KEY", "")
    environment = {} if key else _signing_environment(build)
    build.run(  # it installs nothing into the user's own repository
        *("mvn", "-q", "-B", "-Prelease", "-DskipTests", "-Dmaven.install.skip", "deploy"),
        *("-pl", "parley-client,parley-spring-boot-starter", "-am"),
        *(f"-DaltDeploymentRepository=release::file://{target}", *([f"-Dgpg.keyname={key}"] if key else [])),
        at="clients/java",
        **environment,
    )
    for unwanted in target.rglob("*-tests.jar*"):  # the client's test servers, which the starter's tests need
        unwanted.unlink()
    for name in ("parley-parent", "parley-client", "parley-spring-boot-starter"):
        files = {path.name for path in (target / "dev/parley" / name / build.version).iterdir()}
        kinds = (".pom",) if name == "parley-parent" else (".pom", ".jar", "-sources.jar", "-javadoc.jar")
        wanted = {f"{name}-{build.version}{kind}" for kind in kinds}
        if missing := {each + end for each in wanted for end in ("", ".asc")} - files:
            raise Refused(f"Maven's artifacts lack {', '.join(sorted(missing))}")
    verify_signatures(build, target, environment)
    if environment:
        build.run("gpgconf", "--kill", "gpg-agent", **environment)


def _signing_environment(build: Build) -> dict[str, str]:
    """Empty if gpg has a secret key; otherwise variables for gpg with a new key of this run."""
    if "sec" in build.run("gpg", "--list-secret-keys", "--with-colons"):
        return {}
    folder = build.scratch / "gpg"
    folder.mkdir(mode=0o700)
    environment = {"GNUPGHOME": str(folder)}
    command = ("gpg", "--batch", "--quiet", "--passphrase", "", "--quick-gen-key", LOCAL_KEY, "ed25519", "sign", "1d")
    build.run(*command, **environment)
    build.remark("NOT TO BE PUBLISHED: Maven's artifacts are signed with a key of this run; set GPG_KEY")
    return environment


def verify_signatures(build: Build, folder: Path, environment: dict[str, str]) -> None:
    """Raises `Refused`, with gpg's message, for a signature below the folder that is not that of the file beside it."""
    for signature in sorted(folder.rglob("*.asc")):
        build.run("gpg", "--batch", "--verify", signature, signature.with_suffix(""), **environment)


def make_chart(build: Build) -> None:
    """The Helm chart as an archive."""
    helm = shutil.which("helm", path=f"{ROOT / '.tools/bin'}{os.pathsep}{os.environ['PATH']}")
    if helm is None:
        raise Refused("helm is not installed: tools/helm.sh")
    target = build.folder("chart")
    build.run(helm, "lint", "--quiet", "deploy/helm/parley")
    build.run(helm, "package", "deploy/helm/parley", "--destination", target)
    build.run(helm, "template", "parley", target / f"parley-{build.version}.tgz", "--set", "access.open=true")


def make_protos(build: Build) -> None:
    """The contract as .proto files and as a descriptor set with its imports and comments."""
    target, protos = build.folder("protos"), build.source / "protos"
    files = sorted(str(path.relative_to(protos)) for path in protos.rglob("*.proto"))
    with zipfile.ZipFile(target / f"parley-protos-{build.version}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in files:
            archive.write(protos / name, name)
        archive.write(build.source / "LICENSE", "LICENSE")
    options = ("--proto_path=protos", "--include_imports", "--include_source_info")
    descriptors = f"--descriptor_set_out={target / f'parley-{build.version}.binpb'}"
    build.run(sys.executable, "-m", "grpc_tools.protoc", *options, descriptors, *files)


def make_image(build: Build) -> None:
    """The container image as an archive that `docker load` and `podman load` read. It contains its list of packages."""
    tag = f"parley:{build.version}"
    build.run(ROOT / "tools/image.sh", "build", tag)  # built from the tree, since its labels have the commit
    archive = build.folder("image") / f"parley-{build.version}.tar"
    build.run(ROOT / "tools/image.sh", "save", tag, archive)
    _check_image(build, archive)


def _check_image(build: Build, archive: Path) -> None:
    with tarfile.open(archive) as opened:
        (image,) = _read_json(opened, "manifest.json")
        labels = _read_json(opened, image["Config"])["config"]["Labels"]
    wanted = {"version": build.version, "revision": build.commit}
    found = {name: labels.get(f"org.opencontainers.image.{name}", "").removesuffix("-dirty") for name in wanted}
    if found != wanted:  # the tree of a release has no changes: `check_tree`
        raise Refused(f"the labels of {archive.name} are {found} in place of {wanted}")


def _read_json(archive: tarfile.TarFile, name: str) -> Any:
    file = archive.extractfile(name)
    if file is None:
        raise Refused(f"{name} in {archive.name!r} is not a file")
    with file:
        return json.load(file)


PARTS: tuple[tuple[str, Callable[[Build], None]], ...] = (
    ("python", make_python),
    ("node", make_node),
    ("java", make_java),
    ("chart", make_chart),
    ("protos", make_protos),
    ("image", make_image),
)
"""The parts by name, in the order in which they are built."""
