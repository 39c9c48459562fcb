"""Runs the commands of examples/grpcurl/README.md on a new server, in order; every served RPC is among them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from parley.v1 import catalog_pb2, chat_pb2, conversations_pb2

from tests.commands import Called, blocks, run
from tests.processes import ServerProcess
from tests.tools import ROOT

COMMANDS = "\n".join(blocks((ROOT / "examples/grpcurl/README.md").read_text(), "sh"))

pytestmark = pytest.mark.xdist_group("grpcurl-page")


def test_the_page_calls_every_served_rpc() -> None:
    services = (
        chat_pb2.DESCRIPTOR.services_by_name["Chat"],
        conversations_pb2.DESCRIPTOR.services_by_name["Conversations"],
        catalog_pb2.DESCRIPTOR.services_by_name["Catalog"],
    )
    served = {f"{service.name}/{method.name}" for service in services for method in service.methods}
    assert set(re.findall(r"parley\.v1\.(\w+/\w+)", COMMANDS)) == served


async def test_the_commands_can_be_pasted_twice(tmp_path: Path) -> None:
    async with ServerProcess(tmp_path / "server", forked=True) as server:
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
    by_method: dict[str, list[Called]] = {}
    for call in calls:
        by_method.setdefault(call.method, []).append(call)
        assert call.answers, f"{call.method} has not answered"
    assert "parley.v1.Chat" in by_method["list"][0].answers[0]
    assert by_method["grpc.health.v1.Health/Check"][0].answers == [{"status": "SERVING"}]
    _check_replies(by_method)
    _check_conversations(by_method)


def _check_replies(by_method: dict[str, list[Called]]) -> None:
    streamed, failed = by_method["Chat/StreamReply"]
    assert streamed.answers[0]["accepted"]["messageId"]
    assert streamed.answers[-1]["finished"]["reason"] == "FINISH_REASON_STOP"
    assert streamed.request["text"] in streamed.text
    sequences = [chunk.get("sequence", 0) for chunk in streamed.answers]
    assert sequences == sorted(sequences)
    assert failed.answers[-1]["failed"]["error"]["reason"] == "ERROR_REASON_PROVIDER_UNAVAILABLE"
    first, again, whole, _ = (call.answers[0] for call in by_method["Chat/CreateReply"])
    assert first["id"] == again["id"]
    assert first["state"] in ("STATE_PENDING", "STATE_STREAMING")
    assert whole["state"] == "STATE_COMPLETED"
    (resumed,) = by_method["Chat/ResumeReply"]
    assert all(chunk["sequence"] > 3 for chunk in resumed.answers[1:])
    assert resumed.answers[-1]["finished"]["reason"] == "FINISH_REASON_STOP"
    (polled,) = by_method["Chat/PollReply"]
    assert polled.answers[0]["afterSequence"] > polled.request["after_sequence"]
    assert polled.answers[0]["reply"]["id"] == first["id"]
    assert polled.text
    (cancelled,) = by_method["Chat/Cancel"]
    assert cancelled.answers[0]["state"] == "STATE_CANCELLED"
    assert cancelled.answers[0]["cancelReason"] == cancelled.request["reason"]


def _check_conversations(by_method: dict[str, list[Called]]) -> None:
    created = by_method["Conversations/CreateConversation"][0]
    given = created.request["conversation"]
    assert {name: created.answers[0][name] for name in given} == given
    assert created.answers[0]["etag"]
    (listed,) = by_method["Conversations/ListConversations"]
    assert [each["title"] for each in listed.answers[0]["conversations"]] == ["Tea and cake"]
    assert {each["endUser"] for each in listed.answers[0]["conversations"]} == {"ada"}
    (messages,) = by_method["Conversations/ListMessages"]
    assert [message["role"] for message in messages.answers[0]["messages"]] == ["ROLE_USER"]
    (image,) = by_method["Conversations/GetImage"]
    assert image.answers[0]["data"] in json.dumps(COMMANDS)
    assert [call.answers for call in by_method["Conversations/DeleteConversation"]] == [[{}]] * 3
