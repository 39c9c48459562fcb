"""The contract as published: descriptors and stubs of other languages call the installed server."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.release.programs import output_of
from tests.tools import ROOT, tool

STORY = "Tell me a story."
# One process builds for all tests; compilers run.
pytestmark = [pytest.mark.timeout(1200), pytest.mark.xdist_group("release")]
SLOW = "/script " + json.dumps({"text": "one two three four ", "repeat": 40})
"""It takes 5 seconds, in which the program cancels."""
PRINTED = re.compile(
    r"(?P<first>[^\n]+)\n\[cut after chunk (?P<sequence>\d+)\]\n(?P<rest>[^\n]*)\n"
    r"\[FINISH_REASON_STOP of reply (?P<resumed>\S+)\]\n"
    r"(?P<partial>[^\n]+)\n\[FINISH_REASON_CANCELLED of reply (?P<cancelled>\S+)\]\n"
)
STORED = """
import sys, parley
from parley.v1 import resources_pb2
with parley.SyncClient(sys.argv[1], end_user="ada") as client:
    for reply in map(client.get_reply, sys.argv[2:]):
        print(resources_pb2.Reply.State.Name(reply.state))
        print("".join(part.text for part in reply.message.parts))
"""


def test_grpcurl_calls_with_the_published_descriptors(protos, server) -> None:
    """Without the server's reflection."""
    (descriptors,) = protos.glob("*.binpb")
    call = ("-plaintext", "-protoset", descriptors, "-d", json.dumps({"text": STORY}), server)
    assert STORY in output_of(tool("grpcurl"), *call, "parley.v1.Chat/CreateReply")
    described = output_of(tool("grpcurl"), "-protoset", descriptors, "describe", "parley.v1.Chat.Cancel")
    assert "//" in described, "the descriptors have the comments"


def test_the_published_protos_generate_stubs_of_python(protos, tmp_path) -> None:
    (archive,) = protos.glob("*.zip")
    shutil.unpack_archive(archive, tmp_path / "protos")
    files = sorted(str(path.relative_to(tmp_path / "protos")) for path in (tmp_path / "protos").rglob("*.proto"))
    output_of(sys.executable, "-m", "grpc_tools.protoc", "--proto_path=protos", "--python_out=.", *files, cwd=tmp_path)
    assert (tmp_path / "parley/v1/chat_pb2.py").exists()
    assert (tmp_path / "protos/LICENSE").exists()


def test_a_go_program_with_generated_stubs_resumes_and_cancels(protos, environment, server, tmp_path) -> None:
    go, buf = tool("go"), tool("buf")
    example = shutil.copytree(ROOT / "examples/go", tmp_path / "example", ignore=shutil.ignore_patterns("gen"))
    (archive,), (descriptors,) = protos.glob("*.zip"), protos.glob("*.binpb")
    output_of(buf, "generate", descriptors, "--path", "parley/v1", cwd=example)
    of_descriptors = _contents(example / "gen")
    output_of(buf, "generate", archive, cwd=example)
    assert _contents(example / "gen") == of_descriptors
    output_of(go, "build", "-o", "program", ".", cwd=example)
    printed = PRINTED.fullmatch(ran := output_of(example / "program", "-address", server, "-text", SLOW))
    assert printed, ran
    stored = output_of(environment / "python", "-c", STORED, server, printed["resumed"], printed["cancelled"])
    assert stored.splitlines() == [
        *("STATE_COMPLETED", printed["first"] + printed["rest"]),
        *("STATE_CANCELLED", printed["partial"]),
    ]
    assert printed["first"] + printed["rest"] == "one two three four " * 40


def _contents(folder: Path) -> dict[str, str]:
    """The text of each file, by its path below the folder."""
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
