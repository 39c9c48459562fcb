"""Builds the image with `tools/image.sh`, and runs it with runc as compose.yaml runs a replica.

runc gives a container namespaces of its own for processes, mounts and the network, a read-only root, and no
capabilities. The network has only a loopback interface, so the server listens on the ports of the image; a container
with names of hosts shares the network of the tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from tests import watchdog
from tests.tools import ROOT, tool

POLL_S = 0.02
CALL_S = 60.0
"""Longest time of a command inside a container."""


@dataclass(frozen=True)
class Image:
    """A built image. `config` is what a container engine reads; `folder` has all files of the image."""

    config: dict[str, Any]
    folder: Path
    size: int
    base_size: int


@contextmanager
def built(tag: str, workplace: Path) -> Iterator[Image]:
    """The image of this tree. Layers that an earlier build left are used again."""
    named = workplace / "id"
    command = [str(ROOT / "tools/image.sh"), "build", tag, "--iidfile", str(named)]
    # Without the engine of docker, which would keep the image where this module does not look.
    subprocess.run(command, check=True, env=os.environ | {"DOCKER_HOST": "unix:///nonexistent"}, stdout=subprocess.PIPE)
    with _mounted(named.read_text().strip()) as image:
        base = image.config["Labels"]["org.opencontainers.image.base.name"]
        yield replace(image, base_size=_size(base))


@contextmanager
def loaded(archive: Path, workplace: Path) -> Iterator[Image]:
    """The image of an archive, in a storage without other images, emptied at the end. Its `base_size` is 0."""
    storage = ("--root", str(workplace / "storage"), "--runroot", str(workplace / "run"))
    try:
        with _mounted(_buildah(*storage, "pull", "--quiet", f"docker-archive:{archive}"), *storage) as image:
            yield image
    finally:
        _buildah(*storage, "rmi", "--all", "--force")


@contextmanager
def _mounted(identity: str, *storage: str) -> Iterator[Image]:
    """An image by its id. `storage`: options that name the place of images."""
    config = json.loads(_buildah(*storage, "inspect", "--type", "image", identity))["Docker"]["config"]
    container = _buildah(*storage, "from", "--pull-never", identity)
    try:
        folder = Path(_buildah(*storage, "mount", container))
        yield Image(config, folder, _size(identity, *storage), base_size=0)
    finally:
        _buildah(*storage, "rm", container)


def _buildah(*arguments: str) -> str:
    done = subprocess.run([tool("buildah"), *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


def _size(image: str, *storage: str) -> int:
    """Bytes of all layers together."""
    identity = json.loads(_buildah(*storage, "inspect", "--type", "image", image))["FromImageID"]
    listed = _buildah(*storage, "images", "--all", "--no-trunc", "--format", "{{.ID}} {{.Size}}").splitlines()
    sizes = dict(line.split(" ", 1) for line in listed)
    return _bytes(sizes[f"sha256:{identity}"])


def _bytes(size: str) -> int:
    """The figure of buildah, such as "311 MB"."""
    number, unit = size.split()
    return int(float(number) * {"kB": 1000, "MB": 1000**2, "GB": 1000**3}[unit])


class Container:
    """A container of the image with the options of a compose service, and files of this tree mounted by it.

    environment: beside the variables that the image sets. hosts: names of servers on loopback.
    """

    def __init__(
        self, image: Image, service: dict[str, Any], folder: Path, *, hosts: Sequence[str] = (), **environment: str
    ) -> None:
        self._image = image
        self._state = folder / "state"
        self._log = folder / "log"
        self._environment = [*image.config["Env"], *[f"{name}={value}" for name, value in environment.items()]]
        data = folder / "data"
        data.mkdir(parents=True)
        user, group = self._owner
        os.chown(data, user, group)
        for outer in (folder, *folder.parents[:1]):
            outer.chmod(0o755)
        (folder / "config.json").write_text(json.dumps(self._specification(service, data, hosts)))
        self._bundle = folder
        self._id = f"parley-{uuid.uuid4().hex}"  # also the name of its control groups, which all containers share
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def output(self) -> str:
        """What the server has written to standard output and standard error."""
        return self._log.read_text()

    def __enter__(self) -> Self:
        self._start()
        try:
            self._wait(lambda: "Parley serves on" in self.output, limit_s=CALL_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._runc("kill", self._id, "KILL")
            self._process.wait()
        watchdog.forget(self._process.pid)
        with suppress(subprocess.CalledProcessError):  # runc has removed it if it ended by itself
            self._runc("delete", "--force", self._id)

    def complete(self) -> int:
        """Run the command of the service to its end, and return its exit status."""
        self._start()
        assert self._process is not None
        try:
            return self._process.wait(timeout=CALL_S)
        finally:
            self.__exit__()

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container, with its variables and these."""
        process = self.start(*command, **environment)
        output, errors = process.communicate(timeout=CALL_S)
        return subprocess.CompletedProcess(command, process.returncode, output, errors)

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command in the container without waiting for its end."""
        options = [option for name, value in environment.items() for option in ("--env", f"{name}={value}")]
        return subprocess.Popen(
            [tool("runc"), "--root", str(self._state), "exec", *options, self._id, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def stop(self, grace_s: float) -> int:
        """Send the image's stop signal and return the exit status; fails if it still runs after `grace_s`."""
        assert self._process is not None
        self._runc("kill", self._id, self._image.config["StopSignal"])
        return self._process.wait(timeout=grace_s)

    @property
    def _owner(self) -> tuple[int, int]:
        user, group = self._image.config["User"].split(":")
        return int(user), int(group)

    def _start(self) -> None:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [tool("runc"), "--root", str(self._state), "run", "--bundle", str(self._bundle), self._id],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        watchdog.watch(self._process.pid)

    def _runc(self, *arguments: str) -> None:
        subprocess.run([tool("runc"), "--root", str(self._state), *arguments], check=True, stderr=subprocess.PIPE)

    def _wait(self, condition: Any, *, limit_s: float) -> None:
        assert self._process is not None
        deadline = time.monotonic() + limit_s
        while not condition():
            assert self._process.poll() is None, f"the container ended: {self.output}"
            assert time.monotonic() < deadline, f"not within {limit_s:g} s: {self.output}"
            time.sleep(POLL_S)

    def _specification(self, service: dict[str, Any], data: Path, hosts: Sequence[str]) -> dict[str, Any]:
        """The configuration of the OCI runtime; see its specification for the fields."""
        config = self._image.config
        user, group = self._owner
        kept = [] if service.get("cap_drop") == ["ALL"] else ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SETUID"]
        (volume,) = config["Volumes"]
        files = [mount.split(":") for mount in service.get("volumes", ())]
        spaces = ["pid", "mount", "ipc", "uts", *([] if hosts else ["network"])]
        if hosts:
            names = data.with_name("hosts")
            names.write_text(f"127.0.0.1 {' '.join(hosts)}\n")
            names.chmod(0o644)
            files.append([str(names), "/etc/hosts", "ro"])
        return {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": user, "gid": group},
                "args": [*config.get("Entrypoint", ()), *service.get("command", config["Cmd"])],
                "env": self._environment,
                "cwd": config["WorkingDir"],
                "capabilities": {"bounding": kept, "effective": kept, "permitted": kept},
                "noNewPrivileges": "no-new-privileges:true" in service.get("security_opt", ()),
            },
            "root": {"path": str(self._image.folder), "readonly": service.get("read_only", False)},
            "hostname": "parley",
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
                *[
                    {"destination": path, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev"]}
                    for path in service.get("tmpfs", ())
                ],
                {"destination": volume, "type": "bind", "source": str(data), "options": ["bind", "rw"]},
                *[
                    {"destination": inside, "type": "bind", "source": str(ROOT / here), "options": ["bind", mode]}
                    for here, inside, mode in files
                ],
            ],
            "linux": {
                "namespaces": [{"type": kind} for kind in spaces],
                "resources": {"devices": [{"allow": False, "access": "rwm"}]},
                "maskedPaths": ["/proc/kcore", "/proc/keys"],
                "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger"],
            },
        }
