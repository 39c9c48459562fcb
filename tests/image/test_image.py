"""The container image, built from the Dockerfile: what it contains, and that it runs, streams and stops.

Skipped without root, buildah and runc, which need no daemon. `.ci/run` installs them, and has built the layers before.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.containers import Container, Image, built
from tests.ports import free_port
from tests.services import RedisServer, require_redis
from tests.tools import ROOT, tool
from tests.unit.test_deploy import SERVICES, composed, image_environment, seconds

pytestmark = [
    pytest.mark.timeout(600),  # the first build makes a base and downloads packages
    pytest.mark.xdist_group("image"),  # one process, which builds it once
]

REPLICA = SERVICES["parley-a"]
SBOM = "opt/parley/sbom.cdx.json"
LARGEST_MB = 200
"""What the image may add to its base (docs/image.md)."""
BUILD_TOOLS = {
    *("cc", "c++", "gcc", "g++", "cpp", "clang", "ld", "as", "make", "cmake", "cargo", "rustc", "go", "git"),
    *("pip", "pip3", "wheel", "cyclonedx-py", "uv", "poetry"),
}
BUILD_PACKAGES = {"pip", "setuptools", "wheel", "ensurepip", "cyclonedx_py"}

INSTALLED = """
import importlib.metadata, json
print(json.dumps(sorted([each.metadata["Name"], each.version] for each in importlib.metadata.distributions())))
"""
STREAM = """
import asyncio, sys, parley
async def main():
    async with parley.Client("127.0.0.1:50051", end_user="ada") as client:
        async for event in client.stream_reply(sys.argv[1], model="scripted"):
            if isinstance(event, (parley.Text, parley.Finished)):
                print(type(event).__name__, event.text, flush=True)
asyncio.run(main())
"""
STATUS = "print(open('/proc/1/status').read())"
WRITE = """
import sys
for path in sys.argv[1:]:
    try:
        open(path + "/written", "x").close()
    except OSError as error:
        print(path, error.strerror)
    else:
        print(path, "written")
"""


def require_root() -> None:
    tool("buildah")
    tool("runc")
    if os.geteuid() != 0:
        pytest.skip("containers need root here")


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Iterator[Image]:
    require_root()
    with built("parley:latest", tmp_path_factory.mktemp("image")) as found:
        yield found


@pytest.fixture(scope="module")
def container(image, tmp_path_factory) -> Iterator[Container]:
    """A container with the options of compose's replicas and the image's own settings."""
    with Container(image, REPLICA, tmp_path_factory.mktemp("container"), PARLEY_INSECURE="1") as running:
        yield running


def test_configuration_is_that_of_the_dockerfile(image):
    config = image.config
    assert config["User"] == "10001:10001"
    assert config["Cmd"] == ["parley", "serve"]
    assert config["StopSignal"] == "SIGTERM"
    assert config["ExposedPorts"].keys() == {"50051/tcp", "9464/tcp"}
    variables = dict(each.split("=", 1) for each in config["Env"])
    assert {name: value for name, value in variables.items() if name.startswith("PARLEY_")} == image_environment()
    assert [name for name in variables if name.startswith("PIP_")] == []
    assert config["Healthcheck"]["Test"] == REPLICA["healthcheck"]["test"]


def test_labels_name_the_version_and_the_revision(image):
    prefix = "org.opencontainers.image."
    labels = {name.removeprefix(prefix): value for name, value in image.config["Labels"].items()}
    assert labels["title"] == "Parley"
    assert labels["description"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert labels["licenses"] == project["license"]
    assert labels["version"] == project["version"]
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    assert labels["revision"].removesuffix("-dirty") == head.stdout.strip()
    assert labels["created"].startswith("20")
    assert labels["base.name"]


def test_size_over_the_base_is_bounded(image):
    added_mb = (image.size - image.base_size) / 1e6
    print(f"the image adds {added_mb:.0f} MB to a base of {image.base_size / 1e6:.0f} MB")
    assert 0 < added_mb <= LARGEST_MB


def test_image_has_no_build_tools(image):
    found = [
        str(path.relative_to(image.folder))
        for folder in ("bin", "sbin", "opt", "usr")
        for path in _below(image.folder / folder)
        if path.name in BUILD_PACKAGES
        or (path.name.partition("-")[0] in BUILD_PACKAGES and path.suffix in (".whl", ".dist-info"))
        or (path.name in BUILD_TOOLS and path.parent.name in ("bin", "sbin"))
    ]
    assert found == []


def test_files_belong_to_root_and_others_cannot_change_them(image):
    open_folders = {Path("tmp"), Path("var/tmp"), Path("run/lock"), Path("dev/shm")}
    owned, writable = [], []
    for path in _below(image.folder):
        inside, status = path.relative_to(image.folder), path.lstat()
        if status.st_uid == 10001:
            owned.append(str(inside))
        is_file = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
        if is_file and status.st_mode & stat.S_IWOTH and inside not in open_folders:
            writable.append(str(inside))
    assert owned == ["data"]
    assert writable == []


def test_secrets_of_the_build_are_not_in_the_image(image):
    assert not list((image.folder / "run").glob("secrets/*"))
    assert [path for path in _below(image.folder / "opt") if path.name in ("pip.conf", "direct_url.json")] == []


def _below(folder: Path) -> Iterator[Path]:
    """All files and folders below a folder; links are not followed."""
    for outer, folders, files in os.walk(folder):
        yield from (Path(outer, name) for name in (*folders, *files))


def test_sbom_lists_the_installed_packages(image, container):
    sbom = json.loads((image.folder / SBOM).read_text())
    assert sbom["bomFormat"] == "CycloneDX"
    listed = [[each["name"], each["version"]] for each in (sbom["metadata"]["component"], *sbom["components"])]
    ran = container.run("python", "-c", INSTALLED)
    assert ran.returncode == 0, ran.stderr
    assert sorted(listed) == json.loads(ran.stdout)
    assert ["parley-server", image.config["Labels"]["org.opencontainers.image.version"]] in listed
    licensed = [each for each in sbom["components"] if each.get("licenses")]
    assert len(licensed) > len(sbom["components"]) / 2


def test_versions_are_those_of_the_constraints(container):
    pinned = {
        (_normalised(name), version)
        for name, version in re.findall(r"^([\w.-]+)==([^\s\\]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    }
    installed = json.loads(container.run("python", "-c", INSTALLED).stdout)
    others = {(_normalised(name), version) for name, version in installed if not name.startswith("parley-")}
    assert len(others) > 20
    assert others - pinned == set()


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_server_runs_as_a_user_without_privileges(container):
    ran = container.run("python", "-c", STATUS)
    status = dict(line.split(":\t", 1) for line in ran.stdout.splitlines() if ":\t" in line)
    assert status["Name"] == "parley"
    assert status["Uid"].split() == ["10001"] * 4
    assert status["Gid"].split() == ["10001"] * 4
    assert status["NoNewPrivs"] == "1"
    assert {status[name] for name in ("CapEff", "CapPrm", "CapBnd")} == {"0" * 16}


def test_root_is_read_only_but_for_data_and_tmp(container):
    ran = container.run("python", "-c", WRITE, "/", "/opt/parley", "/var/tmp", "/tmp", "/data")
    assert ran.stdout.splitlines() == [
        "/ Read-only file system",
        "/opt/parley Read-only file system",
        "/var/tmp Read-only file system",
        "/tmp written",
        "/data written",
    ]


def test_health_check_of_the_image_finds_it_ready(image, container):
    kind, *command = image.config["Healthcheck"]["Test"]
    assert kind == "CMD"
    ran = container.run(*command)
    assert (ran.returncode, ran.stdout) == (0, "SERVING\n")


def test_health_check_fails_while_nothing_serves(image, container):
    _, *command = image.config["Healthcheck"]["Test"]
    ran = container.run(*command, PARLEY_LISTEN="127.0.0.1:50052")
    assert (ran.returncode, ran.stdout) == (1, "UNAVAILABLE\n")


@pytest.mark.parametrize("name", ["parley-a", "parley-b", "migrate"])
def test_settings_of_compose_are_valid_in_the_image(container, name):
    ran = container.run("parley", "check", **composed(name))
    assert ran.returncode == 0, ran.stderr
    assert "database: PostgreSQL at" in ran.stdout
    assert "relay: Redis at" in ran.stdout


def test_reply_streams_and_ends_before_the_container_stops(image, tmp_path):
    with Container(image, REPLICA, tmp_path, PARLEY_INSECURE="1") as container:
        script = json.dumps({"text": "one two three", "pauses": [{"after": 1, "seconds": 3}]})
        with container.start("python", "-c", STREAM, f"/script {script}") as reader:
            assert reader.stdout is not None
            assert reader.stdout.readline().strip() == "Text one"
            status = container.stop(seconds(REPLICA["stop_grace_period"]))
            events = reader.stdout.read().splitlines()
            assert reader.wait() == 0
        assert [each.split()[0] for each in events] == ["Text", "Text", "Finished"]
        assert events[-1] == "Finished one two three"
        assert status == 0
        assert '"event":"stopped"' in container.output


def test_compose_migrates_and_serves_on_postgresql_and_redis(image, shared_postgres, tmp_path):
    """With the variables of compose.yaml, except for the ports, which are free ones here."""
    require_redis()
    with RedisServer(tmp_path / "redis", password="parley") as redis:
        shared_postgres.create_database("parley")
        ports = {"5432": shared_postgres.port, "6379": redis.port}
        listen = {name: f"127.0.0.1:{free_port()}" for name in ("PARLEY_LISTEN", "PARLEY_METRICS_LISTEN")}
        containers = {}
        for name in ("migrate", "parley-a"):
            variables = {
                key: re.sub(r"(?<=:)(5432|6379)(?=/)", lambda found: str(ports[found[1]]), value)
                for key, value in composed(name).items()
            }
            hosts = ("localhost", "postgres", "redis")
            containers[name] = Container(image, SERVICES[name], tmp_path / name, hosts=hosts, **variables, **listen)
        assert containers["migrate"].complete() == 0, containers["migrate"].output
        with containers["parley-a"] as replica:
            read = replica.run("python", "-c", STREAM.replace("127.0.0.1:50051", listen["PARLEY_LISTEN"]), "Hello")
            assert read.stdout.splitlines()[-1].startswith("Finished Hello!"), read.stderr
            assert replica.stop(seconds(REPLICA["stop_grace_period"])) == 0
        assert shared_postgres.rows("SELECT state FROM reply", database="parley") == [("COMPLETED",)]
        assert '"replica"' in containers["parley-a"].output
