"""Every error reason, request field, chunk field and unary RPC of the contract exists in each client.

The Python client is inspected; the sources of the others are read without their comments, so that a name in a comment
does not count.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest
from parley import (
    Accepted,
    Admin,
    Client,
    Conversations,
    Finished,
    ReplyFailed,
    ReplyStream,
    RequestFields,
    SyncAdmin,
    SyncClient,
    SyncConversations,
    SyncReplyStream,
)
from parley.errors import BY_REASON, LimitExceeded
from parley.v1 import chat_pb2, errors_pb2, resources_pb2

CLIENTS = Path(__file__).parents[2] / "clients"
JAVA = "java/parley-client/src/main/java/dev/parley/client"

# The methods of the Python client, by RPC. Node and Java have the same names in camel case.
METHODS = {
    "Chat.CreateReply": "create_reply",
    "Chat.PollReply": "poll",
    "Chat.GetReply": "get_reply",
    "Chat.Cancel": "cancel",
    "Catalog.ListModels": "models",
    "Catalog.GetQuota": "quotas",
    "Conversations.CreateConversation": "create",
    "Conversations.GetConversation": "get",
    "Conversations.ListConversations": "pages",
    "Conversations.UpdateConversation": "update",
    "Conversations.DeleteConversation": "delete",
    "Conversations.ListMessages": "message_pages",
    "Conversations.GetImage": "image",
    "Admin.SetProviderKey": "set_provider_key",
    "Admin.ListProviderKeys": "provider_keys",
    "Admin.DeleteProviderKey": "delete_provider_key",
    "Admin.ListUsage": "usage",
    "Admin.GetStatus": "status",
}

OF_THE_CLIENT = ("Chat", "Catalog")
"""Their methods are those of the client itself; each other service has a class."""

# The chunks whose fields are copied, with the fields that the clients leave out. The error of `Failed` is the exception
# itself.
COPIED: dict[str, set[str]] = {"Accepted": set(), "Finished": {"provider_reason"}, "Failed": {"error"}}


def source(path: str) -> str:
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", (CLIENTS / path).read_text(), flags=re.DOTALL)


def between(text: str, start: str, end: str) -> str:
    """The text after the only match of `start`, up to the next match of `end`."""
    _, after = re.split(start, text, flags=re.MULTILINE)
    return re.split(end, after, maxsplit=1, flags=re.MULTILINE)[0]


def camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name)


def flat_fields() -> set[str]:
    """The fields of a request as keyword arguments: stream options beside the others, durations in seconds."""
    fields = [field for field in chat_pb2.ReplyRequest.DESCRIPTOR.fields if field.name != "stream_options"]
    fields += chat_pb2.StreamOptions.DESCRIPTOR.fields
    durations = {field.name for field in fields if field.message_type and field.message_type.name == "Duration"}
    return {f"{field.name}_s" if field.name in durations else field.name for field in fields}


def python_classes() -> dict[str, str]:
    return {reason: kind.__name__ for reason, kind in BY_REASON.items()}


def node_classes() -> dict[str, str]:
    return dict(re.findall(r"(\w+): (\w+),", between(source("node/src/errors.ts"), "const BY_REASON.*{$", "^};")))


def java_classes() -> dict[str, str]:
    cases = between(source(f"{JAVA}/errors/Exceptions.java"), r"switch \(failure.reason\(\)\) {", "default ->")
    found = re.findall(r"case ([^>]*) -> new (\w+)Exception\(failure\);", cases)
    return {reason: kind for reasons, kind in found for reason in re.findall(r'"(\w+)"', reasons)}


@pytest.mark.parametrize("classes", [python_classes, node_classes, java_classes])
def test_every_error_reason_has_the_same_class_in_each_client(classes):
    reasons = {value.name.removeprefix("ERROR_REASON_") for value in errors_pb2.ErrorReason.DESCRIPTOR.values}
    assert set(classes()) == reasons - {"UNSPECIFIED"}
    assert classes() == python_classes()


def test_python_takes_every_request_field():
    own = {"images"}
    positional = {"text"}  # the first argument of stream_reply and create_reply
    assert set(RequestFields.__annotations__) - own == flat_fields() - positional - {"wait_s"}
    assert "wait_s" in inspect.signature(Client.create_reply).parameters


def test_node_takes_every_request_field():
    text = source("node/src/fields.ts")
    declared = set(re.findall(r"^  (\w+)\?:", between(text, "^export interface ReplyFields {", "^}"), re.MULTILINE))
    converted = set(re.findall(r"fields\.(\w+)", between(text, "^export function requestOf", "^}")))
    expected = {re.sub("S$", "Ms", camel(name)) if name.endswith("_s") else camel(name) for name in flat_fields()}
    assert declared - {"images"} == converted == expected - {"waitMs"}
    assert "waitMs" in between(source("node/src/client.ts"), r"^  createReply\(", "^  }$")


def test_java_takes_the_request_message_of_the_contract():
    assert (
        "<protoSourceRoot>${project.basedir}/../../../protos<" in (CLIENTS / "java/parley-client/pom.xml").read_text()
    )
    for method in ("ReplyStream streamReply", "Reply createReply"):
        assert f"public {method}(ReplyRequest request)" in source(f"{JAVA}/ParleyClient.java")


def python_fields(chunk: str) -> set[str]:
    return set({"Accepted": Accepted, "Finished": Finished, "Failed": ReplyFailed}[chunk].__annotations__)


def node_fields(chunk: str) -> set[str]:
    if chunk == "Failed":
        body = between(source("node/src/errors.ts"), "^export class ReplyFailed .*{$", r"^  constructor\(")
    else:
        body = between(source("node/src/events.ts"), f"^export interface {chunk} {{$", "^}")
    return set(re.findall(r"^  readonly (\w+): ", body, re.MULTILINE))


def java_fields(chunk: str) -> set[str]:
    if chunk == "Failed":
        return set(re.findall(r"public \w+ (\w+)\(\)", source(f"{JAVA}/errors/ReplyFailedException.java")))
    record = between(source(f"{JAVA}/ReplyEvent.java"), rf"record {chunk}\(", r"\)\s+implements")
    return set(re.findall(r"(\w+)(?:,|$)", record))


@pytest.mark.parametrize("chunk", COPIED)
def test_each_client_shows_the_fields_of_the_chunk(chunk):
    expected = {field.name for field in getattr(chat_pb2, chunk).DESCRIPTOR.fields} - COPIED[chunk]
    assert expected <= python_fields(chunk)
    assert {camel(name) for name in expected} <= node_fields(chunk)
    assert {camel(name) for name in expected} <= java_fields(chunk)


def test_node_can_update_each_field_of_the_context_policy():
    fields = between(source("node/src/conversations.ts"), "^export type ConversationField =$", ";$")
    (nested,) = re.findall(r"`context\.\$\{(.*)\}`", fields)
    expected = {camel(field.name) for field in resources_pb2.ContextPolicy.DESCRIPTOR.fields}
    assert set(re.findall(r'"(\w+)"', nested)) == expected


def test_each_client_shows_the_details_of_a_limit():
    names = {name for name, member in vars(LimitExceeded).items() if isinstance(member, property)}
    assert names == {"limit", "used", "max", "needed", "subject", "reset_time"}
    node = between(source("node/src/errors.ts"), "^export class LimitExceeded .*{$", "^}")
    assert set(re.findall(r"^  get (\w+)\(\)", node, re.MULTILINE)) == {camel(name) for name in names}
    java = source(f"{JAVA}/errors/LimitExceededException.java")
    assert set(re.findall(r"public \S+ (\w+)\(\)", java)) == {camel(name) for name in names}


def test_every_unary_rpc_is_wrapped():
    stubs = (CLIENTS / "python/src/parley/v1").glob("*_pb2.py")
    files = [importlib.import_module(f"parley.v1.{path.stem}").DESCRIPTOR for path in stubs]
    services = {service.name: service for file in files for service in file.services_by_name.values()}
    unary = {
        f"{name}.{rpc.name}"
        for name, service in services.items()
        for rpc in service.methods
        if not rpc.server_streaming
    }
    assert set(METHODS) == unary


@pytest.mark.parametrize("rpc", METHODS)
def test_each_client_has_a_method_for_the_rpc(rpc):
    service, name = rpc.split(".")
    wrapped = "Client" if service in OF_THE_CLIENT else service
    python = {"Admin": Admin, "Client": Client, "Conversations": Conversations}[wrapped]
    assert name in getattr(python, METHODS[rpc]).__code__.co_names

    method = camel(METHODS[rpc])
    node = between(source(f"node/src/{wrapped.lower()}.ts"), rf"^  (?:async )?\*?{method}\(", "^  }$")
    assert re.search(rf"{service}\w*\.method\.{name[0].lower()}{name[1:]}\b", node)

    java = source(f"{JAVA}/{wrapped.replace('Client', 'ParleyClient')}.java")
    bodies = re.findall(rf"^    public [^\n]* {method}\(.*?^    }}", java, re.MULTILINE | re.DOTALL)
    assert any(f"{service}Grpc.get{name}Method()" in body for body in bodies)


BLOCKING = {Admin: SyncAdmin, Client: SyncClient, Conversations: SyncConversations, ReplyStream: SyncReplyStream}
RENAMED = {"aclose": "close", "__aenter__": "__enter__", "__aexit__": "__exit__", "__aiter__": "__iter__"}
RENAMED["__anext__"] = "__next__"


def public_members(kind: type) -> dict[str, object]:
    return {name: each for name, each in vars(kind).items() if not name.startswith("_") or name in RENAMED}


def blocking_annotation(annotation: object) -> str:
    """The annotation of the blocking client for one of the asynchronous client."""
    return re.sub(r"\bReplyStream\b", "SyncReplyStream", str(annotation)).replace("AsyncIterator", "Iterator")


def test_the_blocking_client_has_the_parameters_of_the_asynchronous_one():
    """In order, with their defaults and types; also those of the constructor."""
    for kind, blocking in BLOCKING.items():
        methods = {name: each for name, each in public_members(kind).items() if inspect.isfunction(each)}
        if kind is Client:
            methods["__init__"] = Client.__init__
        for name, method in methods.items():
            theirs = inspect.signature(method)
            ours = inspect.signature(getattr(blocking, RENAMED.get(name, name)))
            assert ours.parameters == theirs.parameters, f"{blocking.__name__}.{name}"
            assert ours.return_annotation == blocking_annotation(theirs.return_annotation), (
                f"{blocking.__name__}.{name}"
            )


def test_the_blocking_client_has_the_properties_of_the_asynchronous_one():
    for kind, blocking in BLOCKING.items():
        for name, member in public_members(kind).items():
            if isinstance(member, property):
                assert inspect.signature(getattr(blocking, name).fget) == inspect.signature(member.fget)


def test_the_blocking_client_has_no_other_methods():
    own = {"read"}  # with a time limit, as `asyncio.timeout` is for the asynchronous stream
    for kind, blocking in BLOCKING.items():
        theirs = {RENAMED.get(name, name) for name in public_members(kind)}
        assert {name for name in vars(blocking) if not name.startswith("_")} - theirs <= own
