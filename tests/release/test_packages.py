"""The packages of a release, installed from their files in empty environments, run the programs of the README."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys

import pytest
import pytest_asyncio

from tests.commands import ADDRESS, blocks
from tests.endurance import FULL
from tests.needs import CLIENTS, missing
from tests.ports import free_port
from tests.processes import clean_environment
from tests.tools import ROOT, tool
from tools.release.artifacts import Build, make_protos, make_python

README = (ROOT / "README.md").read_text()
STORY = "Tell me a story."
# One process builds for all tests; packages are installed, which takes time.
pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("release")]
QUOTED = {"python": "What is a monad, in one sentence?", "js": STORY}


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """The Python packages and the protos of this tree, with changes that are not committed. Elsewhere than in CI they
    are not built, since installing them downloads packages."""
    if not FULL:
        pytest.skip("downloads packages; CI or PARLEY_TESTS_FULL=1 runs it")
    made = Build((ROOT / "VERSION").read_text().strip(), tmp_path_factory.mktemp("release"))
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout
    for name in filter(None, files.decode().split("\0")):
        if name.split("/")[0] in {"service", "clients", "protos"} or "/" not in name:
            (made.source / name).parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).exists():
                shutil.copy(ROOT / name, made.source / name)
    make_python(made)
    make_protos(made)
    return made


@pytest.fixture(scope="module")
def environment(build):
    """The programs of the virtual environment into which the wheels were installed."""
    return build.scratch / "server/bin"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(environment, tmp_path_factory):
    """The address of the installed `parley serve`."""
    address = f"127.0.0.1:{free_port()}"
    variables = clean_environment(PARLEY_LISTEN=address, PARLEY_METRICS_LISTEN="", PARLEY_LOG_FORMAT="json")
    folder = tmp_path_factory.mktemp("served")
    process = await asyncio.create_subprocess_exec(
        str(environment / "parley"), "serve", cwd=folder, env=variables, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    async with asyncio.timeout(30):
        while json.loads(await process.stderr.readline())["event"] != "serving":
            pass
    reading = asyncio.create_task(process.stderr.read())
    yield address
    process.send_signal(signal.SIGTERM)
    await reading
    assert await process.wait() == 0


async def output_of(*command: object, cwd: object = None) -> str:
    """What a command prints; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        *map(str, command), cwd=cwd, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    printed = (await process.communicate())[0].decode()
    assert process.returncode == 0, printed
    return printed


@pytest.mark.asyncio(loop_scope="module")
async def test_the_python_program_runs_with_the_installed_client(environment, server, tmp_path) -> None:
    (program,) = blocks(README, "python")
    path = tmp_path / "program.py"
    path.write_text(program.replace(ADDRESS, server))
    assert QUOTED["python"] in await output_of(environment / "python", path)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_node_program_runs_with_the_package(server, tmp_path) -> None:
    if not (ROOT / "clients/node/dist/index.js").exists():
        missing("the build of clients/node", CLIENTS)
    npm = tool("npm")
    pack = (npm, "pack", "--silent", "--ignore-scripts", "--pack-destination", tmp_path)
    packed = (await output_of(*pack, cwd=ROOT / "clients/node")).strip().splitlines()[-1]
    (tmp_path / "package.json").write_text('{"private": true, "type": "module"}')
    install = (npm, "install", "--prefer-offline", "--no-audit", "--no-fund", "--silent", f"./{packed}")
    await output_of(*install, cwd=tmp_path)
    (program,) = blocks(README, "js")
    (tmp_path / "story.js").write_text(program.replace(ADDRESS, server))
    assert QUOTED["js"] in await output_of(tool("node"), "story.js", cwd=tmp_path)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_go_client_calls_with_the_published_descriptors(build, server) -> None:
    """grpcurl, without the server's reflection."""
    (descriptors,) = (build.output / "protos").glob("*.binpb")
    call = ("-plaintext", "-protoset", descriptors, "-d", json.dumps({"text": STORY}), server)
    assert STORY in await output_of(tool("grpcurl"), *call, "parley.v1.Chat/CreateReply")
    described = await output_of(tool("grpcurl"), "-protoset", descriptors, "describe", "parley.v1.Chat.Cancel")
    assert "//" in described, "the descriptors have the comments"


def test_the_published_protos_generate_stubs(build, tmp_path) -> None:
    (archive,) = (build.output / "protos").glob("*.zip")
    shutil.unpack_archive(archive, tmp_path / "protos")
    files = sorted(str(path.relative_to(tmp_path / "protos")) for path in (tmp_path / "protos").rglob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", "--proto_path=protos", "--python_out=.", *files]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert (tmp_path / "parley/v1/chat_pb2.py").exists()
    assert (tmp_path / "protos/LICENSE").exists()
