"""The page of grpcurl: all of its commands work, in its order, on a new server, and it leaves out no call."""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from parley.v1 import catalog_pb2, chat_pb2, conversations_pb2

from tests.integration.process.test_readme import ADDRESS, RECORDER, ROOT, grpcurl, messages
from tests.processes import ServerProcess, clean_environment

PAGE = (ROOT / "examples/grpcurl/README.md").read_text()
COMMANDS = "\n".join(re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
NOT_SERVED = {"Catalog/GetQuota"}

pytestmark = pytest.mark.xdist_group("grpcurl-page")


def test_the_page_calls_everything_that_is_served() -> None:
    services = (
        chat_pb2.DESCRIPTOR.services_by_name["Chat"],
        conversations_pb2.DESCRIPTOR.services_by_name["Conversations"],
        catalog_pb2.DESCRIPTOR.services_by_name["Catalog"],
    )
    served = {f"{service.name}/{method.name}" for service in services for method in service.methods} - NOT_SERVED
    assert set(re.findall(r"parley\.v1\.(\w+/\w+)", COMMANDS)) == served


async def test_the_commands_work_when_pasted(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    calls.mkdir()
    recorder = tmp_path / "bin" / "grpcurl"
    recorder.parent.mkdir()
    recorder.write_text(RECORDER)
    recorder.chmod(recorder.stat().st_mode | stat.S_IXUSR)
    environment = clean_environment(CALLS=str(calls), GRPCURL=grpcurl(), no_proxy="127.0.0.1")
    environment["PATH"] = os.pathsep.join([str(recorder.parent), environment["PATH"]])
    async with ServerProcess(tmp_path / "server") as server:
        done = await asyncio.to_thread(  # meanwhile, the server's lines are read
            subprocess.run,
            ["bash", "-c", "set -eo pipefail\n" + COMMANDS.replace(ADDRESS, server.address)],
            env=environment,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        codes = {(line["method"].rpartition("/")[2], line["code"]) for line in server.events("call")}
    assert {code for method, code in codes if method != "StreamReply"} == {"OK"}
    assert {code for method, code in codes if method == "StreamReply"} == {"OK", "ABORTED"}
    answers = _answers(calls)
    assert len(answers) == len(re.findall(r"^.*\bgrpcurl -plaintext", COMMANDS, re.MULTILINE))
    _check(answers)


def _answers(calls: Path) -> list[tuple[str, list[Any]]]:
    """What was called, in order, with what it answered; of what is no call, nothing."""
    made = []
    for call in sorted(calls.iterdir()):
        method = (call / "arguments").read_text().splitlines()[-1]
        text = (call / "answer").read_text()
        made.append((method.removeprefix("parley.v1."), list(messages(text)) if "/" in method else [text]))
    return made


def _check(answers: list[tuple[str, list[Any]]]) -> None:
    by_method: dict[str, list[list[Any]]] = {}
    for method, answer in answers:
        by_method.setdefault(method, []).append(answer)
        assert answer, f"{method} has not answered"
    assert "parley.v1.Chat" in by_method["list"][0][0]
    assert by_method["grpc.health.v1.Health/Check"] == [[{"status": "SERVING"}]]
    streamed, failed = by_method["Chat/StreamReply"]
    assert streamed[-1]["finished"]["reason"] == "FINISH_REASON_STOP"
    assert failed[-1]["failed"]["error"]["reason"] == "ERROR_REASON_PROVIDER_UNAVAILABLE"
    first, again, whole, _ = (answer for (answer,) in by_method["Chat/CreateReply"])
    assert first["id"] == again["id"]
    assert whole["state"] == "STATE_COMPLETED"
    (resumed,) = by_method["Chat/ResumeReply"]
    assert all(chunk["sequence"] > 3 for chunk in resumed[1:])
    assert by_method["Chat/Cancel"][0][0]["state"] == "STATE_CANCELLED"
    (listed,) = by_method["Conversations/ListConversations"]
    assert [each["title"] for each in listed[0]["conversations"]] == ["Tea and cake"]
    (image,) = by_method["Conversations/GetImage"]
    assert image[0]["data"] in json.dumps(COMMANDS)
    assert by_method["Conversations/DeleteConversation"] == [[{}]] * 3
