"""Every command and program of the README, run as it stands there against a server; only the address is the test's."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from tests.commands import ADDRESS, Called, blocks, run
from tests.processes import PARLEY, ServerProcess, clean_environment
from tests.tools import ROOT, tool

README = (ROOT / "README.md").read_text()
COMMANDS = "\n".join(block for block in blocks(README, "sh") if "grpcurl" in block)


def is_streamed(call: Called) -> None:
    first, *_, last = call.answers
    assert first["accepted"]["messageId"]
    assert first["replyId"]
    assert last["finished"]["reason"] == "FINISH_REASON_STOP"
    sequences = [chunk.get("sequence", 0) for chunk in call.answers]
    assert sequences == sorted(sequences)
    assert call.request.get("text", "") in call.text
    assert len(call.text) > 50


def is_resumed(call: Called) -> None:
    after = call.request["after_sequence"]
    assert all(chunk.get("sequence", 0) > after for chunk in call.answers[1:])
    assert call.answers[-1]["finished"]["reason"] == "FINISH_REASON_STOP"
    assert len(call.text) > 50


def is_polled(call: Called) -> None:
    (answer,) = call.answers
    assert answer["afterSequence"] > call.request["after_sequence"]
    assert answer["reply"]["id"] == call.request["reply_id"]
    assert call.text


def is_created(call: Called) -> None:
    (reply,) = call.answers
    assert reply["id"]
    if call.request.get("wait") == "0s":
        assert reply["state"] in ("STATE_PENDING", "STATE_STREAMING")
    else:
        assert reply["state"] == "STATE_COMPLETED"
        assert call.request["text"] in reply["message"]["parts"][0]["text"]


def is_cancelled(call: Called) -> None:
    (reply,) = call.answers
    assert (reply["state"], reply["finishReason"]) == ("STATE_CANCELLED", "FINISH_REASON_CANCELLED")
    assert reply["cancelReason"] == call.request["reason"]


def is_conversation(call: Called) -> None:
    (conversation,) = call.answers
    given = call.request["conversation"]
    assert {name: conversation[name] for name in given} == given
    assert conversation["etag"]


def are_messages(call: Called) -> None:
    (answer,) = call.answers
    assert {"ROLE_USER", "ROLE_ASSISTANT"} == {message["role"] for message in answer["messages"]}


def are_conversations(call: Called) -> None:
    (answer,) = call.answers
    assert all(conversation["endUser"] == "ada" for conversation in answer["conversations"])


def is_done(call: Called) -> None:
    assert call.answers == [{}]


PROMISES: dict[str, Callable[[Called], None]] = {
    "Chat/StreamReply": is_streamed,
    "Chat/ResumeReply": is_resumed,
    "Chat/PollReply": is_polled,
    "Chat/CreateReply": is_created,
    "Chat/Cancel": is_cancelled,
    "Conversations/CreateConversation": is_conversation,
    "Conversations/ListMessages": are_messages,
    "Conversations/ListConversations": are_conversations,
    "Conversations/DeleteConversation": is_done,
}


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    async with ServerProcess(tmp_path) as running:
        yield running


def test_the_readme_calls_every_rpc_that_moves_a_reply() -> None:
    called = set(re.findall(r"parley\.v1\.(\w+/\w+)", COMMANDS))
    assert called <= PROMISES.keys(), "a command without a check of its answer"
    assert {"Chat/StreamReply", "Chat/ResumeReply", "Chat/PollReply", "Chat/Cancel"} <= called


async def test_the_commands_do_what_the_readme_says(tmp_path: Path, server: ServerProcess) -> None:
    ran = await run(COMMANDS, server, tmp_path)
    assert (ran.status, ran.stderr) == (0, "")
    assert len(ran.calls) == len(re.findall(r"parley\.v1\.\w+/\w+", COMMANDS))
    for call in ran.calls:
        PROMISES[call.method](call)
    assert len([line for line in server.events("reply") if line["state"] == "FAILED"]) == 0


@pytest.mark.parametrize("program", blocks(README, "python"))
async def test_the_programs_run(tmp_path: Path, server: ServerProcess, program: str) -> None:
    path = tmp_path / "program.py"
    path.write_text(program.replace(ADDRESS, server.address))
    done = subprocess.run(
        [sys.executable, "-X", "dev", str(path)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for asked in re.findall(r'(?:stream_reply|create_reply)\("([^"]+)"', program):
        assert asked in done.stdout, "the scripted model quotes its user"


async def test_the_commands_may_be_pasted_twice(tmp_path: Path, server: ServerProcess) -> None:
    ran = await run(f"{COMMANDS}\n{COMMANDS}", server, tmp_path)
    assert (ran.status, ran.stderr) == (0, "")


@pytest.mark.parametrize("page", ["README.md", "clients/node/README.md"])
async def test_the_node_program_runs_as_pasted(tmp_path: Path, server: ServerProcess, page: str) -> None:
    package = _built("clients/node", "dist/index.js")
    modules = tmp_path / "node_modules/@parley"
    modules.mkdir(parents=True)
    (modules / "client").symlink_to(package)
    (program,) = blocks((ROOT / page).read_text(), "js")
    path = tmp_path / "story.mjs"
    path.write_text(program.replace(ADDRESS, server.address))
    await _tells_a_story(tool("node"), "--preserve-symlinks", str(path))


@pytest.mark.parametrize("page", ["README.md", "clients/java/README.md"])
async def test_the_java_program_runs_as_pasted(tmp_path: Path, server: ServerProcess, page: str) -> None:
    jar = _built("clients/java/conformance/target/player.jar")  # the client with all that it depends on
    program = blocks((ROOT / page).read_text(), "java")[0]
    path = tmp_path / "Story.java"
    path.write_text(program.replace(ADDRESS, server.address))
    await _tells_a_story(tool("java"), "-cp", str(jar), str(path))


@pytest.mark.parametrize("page", ["README.md", "clients/java/README.md"])
def test_the_java_dependency_is_what_the_build_installs(page: str) -> None:
    (dependency,) = blocks((ROOT / page).read_text(), "xml")
    pom = (ROOT / "clients/java/parley-client/pom.xml").read_text()
    for name in ("groupId", "version"):
        assert _element(dependency, name) == _element(pom[pom.index("<parent>") :], name)
    assert _element(dependency, "artifactId") == _element(pom[pom.index("</parent>") :], "artifactId")


def _element(xml: str, name: str) -> str:
    found = re.search(rf"<{name}>(.*?)</{name}>", xml)
    assert found, name
    return found[1]


def _built(place: str, *made: str) -> Path:
    """A client that `make clients` builds; without it the test is skipped, but on CI it fails."""
    path = ROOT / place
    if not path.joinpath(*made).exists():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{place} is not built: make clients")
    return path


async def _tells_a_story(*command: str) -> None:
    done = await asyncio.to_thread(
        subprocess.run, command, env=clean_environment(), capture_output=True, text=True, timeout=90
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Tell me a story." in done.stdout, "the scripted model quotes its user"


@pytest.mark.parametrize("configuration", blocks(README, "toml"))
def test_the_configurations_are_valid(tmp_path: Path, configuration: str) -> None:
    path = tmp_path / "parley.toml"
    path.write_text(configuration)
    done = subprocess.run(
        [PARLEY, "check"],
        env=clean_environment(PARLEY_CONFIG=str(path), OPENAI_API_KEY="sk-of-nobody"),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
