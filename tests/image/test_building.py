"""`tools/image.sh` passes pip's configuration of the machine as secrets, and labels, to docker or buildah.

Both are stand-ins here that record how they are called, since a real engine of docker is rare where tests run;
test_image.py builds with the real buildah.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.processes import clean_environment
from tests.tools import ROOT

INDEX = "https://ada:secret@packages.example/simple"
RECORDER = """#!/bin/sh
# Records the arguments of a build, and the files of its secrets.
case $1 in
info | inspect) exit {known} ;;
pull) exit {pulled} ;;
build) ;;
*) exit 1 ;;
esac
printf '%s\\n' "$@" >"$RECORDS/arguments"
for argument in "$@"; do
    secret=${{argument##id=*,src=}}
    [ "$secret" = "$argument" ] || {{ cp "$secret" "$RECORDS" && printf '%s\\n' "$secret" >>"$RECORDS/sources"; }}
done
"""


@dataclass(frozen=True)
class Built:
    """How the builder was called."""

    status: int
    errors: str
    arguments: list[str]
    records: Path

    def values(self, option: str) -> list[str]:
        return [value for name, value in zip(self.arguments, self.arguments[1:], strict=False) if name == option]

    def secret(self, name: str) -> str:
        return (self.records / name).read_text()


@pytest.fixture
def build(tmp_path):
    """Runs `tools/image.sh build parley:latest` with one builder on a PATH without mmdebstrap."""

    def build(builder: str, *options: str, known: int = 0, pulled: int = 0, **environment: str) -> Built:
        tools, records = tmp_path / "bin", tmp_path / "records"
        tools.mkdir()
        records.mkdir()
        (tools / builder).write_text(RECORDER.format(known=known, pulled=pulled))
        (tools / builder).chmod(0o755)
        needed = "bash sh sed awk grep head tail cp rm mktemp dirname git cat"
        for name in needed.split():
            (tools / name).symlink_to(subprocess.check_output(["which", name], text=True).strip())
        kept = clean_environment(RECORDS=str(records), PATH=str(tools), PIP_CONFIG_FILE="/dev/null", **environment)
        command = [str(ROOT / "tools/image.sh"), "build", "parley:latest", *options]
        ran = subprocess.run(command, env=kept, capture_output=True, text=True, timeout=60)
        recorded = records / "arguments"
        arguments = recorded.read_text().splitlines() if recorded.exists() else []
        return Built(ran.returncode, ran.stderr, arguments, records)

    return build


@pytest.mark.parametrize("builder", ["docker", "buildah"])
def test_index_and_certificates_of_pip_are_secrets_and_gone_after_the_build(build, builder, tmp_path):
    authority = tmp_path / "authority.pem"
    authority.write_text("certificates")
    more = "https://one.example/simple\nhttps://two.example/simple"
    built = build(builder, PIP_INDEX_URL=INDEX, PIP_EXTRA_INDEX_URL=more, PIP_CERT=str(authority), PIP_QUIET="1")
    assert built.status == 0, built.errors
    assert built.secret("ca") == "certificates"
    lines = built.secret("pip").splitlines()
    assert lines[0] == "[global]"
    assert f"index-url={INDEX}" in lines
    start = lines.index("extra-index-url=https://one.example/simple")
    assert lines[start + 1].strip() == "https://two.example/simple"
    assert not any(line.startswith(("cert", "quiet")) for line in lines)
    assert INDEX not in " ".join(built.arguments)
    sources = built.secret("sources").splitlines()
    assert len(sources) == 2
    assert [path for path in sources if Path(path).exists()] == []
    assert ("--isolation" in built.arguments) == (builder == "buildah")


def test_proxy_of_the_environment_is_an_argument_without_its_value(build):
    built = build("buildah", HTTPS_PROXY="http://ben:secret@proxy.example:3128")
    assert "HTTPS_PROXY" in built.values("--build-arg")
    assert not any("proxy.example" in argument for argument in built.arguments)


def test_base_is_an_argument_and_a_label(build):
    built = build("buildah", "--iidfile", "id", BASE="mirror.example/python:3.13-slim", pulled=1)
    assert "BASE=mirror.example/python:3.13-slim" in built.values("--build-arg")
    assert "org.opencontainers.image.base.name=mirror.example/python:3.13-slim" in built.values("--label")
    assert built.values("--iidfile") == ["id"]


def test_without_a_registry_and_mmdebstrap_there_is_a_clear_error(build):
    built = build("buildah", pulled=1, known=1)
    assert built.status == 1
    assert built.arguments == []
    assert "cannot be pulled" in built.errors
    assert "mmdebstrap is not installed" in built.errors


def test_without_a_builder_there_is_a_clear_error(build):
    built = build("podman")
    assert built.status == 1
    assert "An image needs docker or buildah" in built.errors
