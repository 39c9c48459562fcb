"""What the clients have in common is what the contract says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from grpc_tools import protoc

from tools.client_sizes import GENERATED, ROOT
from tools.clients import plugin
from tools.clients.errors import read_errors, tree

OUT = {
    "python": ROOT / "clients/python/src",
    "node": ROOT / "clients/node/src",
    "java": ROOT / "clients/java/parley-client/src/generated/java",
}
SOURCES = ("clients/python/src/parley/*.py", "clients/node/src/*.ts", "clients/java/parley-client/src/**/*.java")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> FileDescriptorSet:
    """The contract with its comments."""
    path = tmp_path_factory.mktemp("contract") / "all.binpb"
    protos = ROOT / "protos"
    names = [str(each.relative_to(protos)) for each in sorted(protos.rglob("*.proto"))]
    well_known = Path(protoc.__file__).parent / "_proto"
    paths = [f"-I{protos}", f"-I{well_known}", f"--descriptor_set_out={path}"]
    assert protoc.main(["protoc", *paths, "--include_imports", "--include_source_info", *names]) == 0
    return FileDescriptorSet.FromString(path.read_bytes())


@pytest.fixture
def errors_file(files) -> FileDescriptorProto:
    found = FileDescriptorProto()
    found.CopyFrom(next(each for each in files.file if each.name == "parley/v1/errors.proto"))
    return found


def written(files: FileDescriptorSet, language: str) -> dict[Path, str]:
    names = [each.name for each in files.file if each.name.startswith("parley/")]
    request = CodeGeneratorRequest(file_to_generate=names, proto_file=files.file)
    return {OUT[language] / each.name: each.content for each in plugin.answer(request, language).file}


@pytest.mark.parametrize("language", OUT)
def test_what_is_committed_is_what_the_contract_gives(files, language):
    made = written(files, language)
    assert {path: path.read_text() for path in made} == made


def test_nothing_else_says_that_it_is_generated(files):
    made = {path for language in OUT for path in written(files, language)}
    claimed = {path for each in SOURCES for path in ROOT.glob(each) if GENERATED.match(path.read_text())}
    assert claimed == made


def test_a_reason_says_its_status_code(errors_file):
    for place in errors_file.source_code_info.location:
        if "NOT_FOUND: no such conversation" in place.leading_comments:
            place.leading_comments = " No such conversation.\n"
    with pytest.raises(ValueError, match="CONVERSATION_NOT_FOUND: its comment begins with no status code"):
        read_errors(errors_file)


def test_a_new_reason_becomes_a_class_below_that_of_its_code(errors_file):
    errors_file.enum_type[0].value.add(name="ERROR_REASON_TOOL_NOT_FOUND", number=60)
    place = errors_file.source_code_info.location.add(path=(5, 0, 2, len(errors_file.enum_type[0].value) - 1))
    place.leading_comments = " NOT_FOUND: no such tool, or\n somebody else's.\n"
    made = next(each for each in read_errors(errors_file) if each.reasons == ("TOOL_NOT_FOUND",))
    assert (made.name, made.parent, made.doc) == ("ToolNotFound", "NotFound", "No such tool, or somebody else's.")
    assert any("ImageNotFound, ToolNotFound" in names for names, _ in tree(read_errors(errors_file)))


def test_a_new_reason_after_headers_is_a_failed_reply(errors_file):
    errors_file.enum_type[0].value.add(name="ERROR_REASON_PROVIDER_MOVED", number=60)
    failed = next(each for each in read_errors(errors_file) if each.name == "ReplyFailed")
    assert failed.reasons[-1] == "PROVIDER_MOVED"


def test_the_tree_is_drawn_whole(errors_file):
    errors = read_errors(errors_file)
    drawn = " ".join(names for names, _ in tree(errors))
    assert sorted(drawn.replace(",", "").replace("├── ", "").replace("└── ", "").replace("│", "").split()) == sorted(
        each.name for each in errors
    )


def test_a_contract_that_lacks_a_file_is_refused(files):
    request = CodeGeneratorRequest(file_to_generate=["parley/v1/errors.proto"], proto_file=files.file)
    with pytest.raises(ValueError, match=r"chat\.proto is not among the files"):
        plugin.answer(request, "python")


def test_it_is_a_plugin_of_protoc(files):
    names = [each.name for each in files.file if each.name.startswith("parley/")]
    request = CodeGeneratorRequest(file_to_generate=names, proto_file=files.file)
    command = [sys.executable, plugin.__file__, "node"]
    done = subprocess.run(command, input=request.SerializeToString(), capture_output=True, check=True)
    assert CodeGeneratorResponse.FromString(done.stdout) == plugin.answer(request, "node")
