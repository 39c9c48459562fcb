"""The page of grpcurl: all of its commands work, in its order, on a new server, and it leaves out no call."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from parley.v1 import catalog_pb2, chat_pb2, conversations_pb2

from tests.commands import Called, blocks, run
from tests.processes import ServerProcess
from tests.tools import ROOT

COMMANDS = "\n".join(blocks((ROOT / "examples/grpcurl/README.md").read_text(), "sh"))
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


async def test_the_commands_work_when_pasted_and_when_pasted_again(tmp_path: Path) -> None:
    async with ServerProcess(tmp_path / "server") as server:
        ran = await run(f"{COMMANDS}\n{COMMANDS}", server, tmp_path)
        assert ran.status == 0, ran.stderr
        codes = {(line["method"].rpartition("/")[2], line["code"]) for line in server.events("call")}
    assert {code for method, code in codes if method != "StreamReply"} == {"OK"}
    assert {code for method, code in codes if method == "StreamReply"} == {"OK", "ABORTED"}
    count = len(re.findall(r"^.*\bgrpcurl -plaintext", COMMANDS, re.MULTILINE))
    assert len(ran.calls) == 2 * count
    _check(ran.calls[:count])
    _check(ran.calls[count:])


def _check(calls: list[Called]) -> None:
    by_method: dict[str, list[list[Any]]] = {}
    for call in calls:
        by_method.setdefault(call.method, []).append(call.answers)
        assert call.answers, f"{call.method} has not answered"
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
