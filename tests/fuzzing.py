"""Calls made from the descriptors of the contract: any field may have any value of its type, or one that exists."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st
from parley.v1 import admin_pb2, catalog_pb2, chat_pb2, conversations_pb2

SERVICES = {"Chat": chat_pb2, "Conversations": conversations_pb2, "Catalog": catalog_pb2, "Admin": admin_pb2}
METHODS: list[MethodDescriptor] = [
    method for name, file in SERVICES.items() for method in file.DESCRIPTOR.services_by_name[name].methods
]
ASKING = [method for method in METHODS if method.name in ("StreamReply", "CreateReply")]
DELETED = {"conversation_id": ["fresh", "other"]}
NEW = {"conversation_id": [""]}
PNG = b"\x89PNG\r\n\x1a\n..."
MOST_DEPTH = 4
NEEDED = ("conversation_id", "reply_id", "image_id", "text", "provider", "api_key")
"""Fields without which a method that has them refuses a call."""
INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: 31,
    FieldDescriptor.CPPTYPE_INT64: 63,
}
ODD_TEXTS = [
    "",
    "\x00",
    "a\x00b",
    "\n",
    "\x1b[31m",
    "\u202e",
    "\U0001f600",
    "'; --",
    "%",
    "{}",
    "[" * 3000,
    "null",
    "1e999",
]
LONG = [65, 129, 257, 1025, 2049, 70_000]

AnyMetadata = st.SearchStrategy[list[tuple[str, str | bytes]]]
Known = dict[str, list[str]]
"""Values that exist on the server, by the name of a field."""


@dataclass(frozen=True)
class FuzzCall:
    """A call as it is sent: the method, the bytes of each message on the stream, and the metadata."""

    method: str
    messages: list[bytes]
    metadata: list[tuple[str, str | bytes]] = field(default_factory=list)


def calls(known: Known, metadata: AnyMetadata, limited: AnyMetadata) -> st.SearchStrategy[FuzzCall]:
    """Calls of any method, most of them with a message of the method's type. `limited`: of callers with limits, who
    mostly ask for replies in new conversations, since other calls would rarely meet a limit."""
    # What is deleted cannot be named by later calls.
    of_any = st.sampled_from(METHODS).flatmap(
        lambda method: _call(method, known | DELETED if method.name == "DeleteConversation" else known, metadata)
    )
    asking = st.sampled_from(ASKING).flatmap(lambda method: _call(method, known | NEW, limited))
    return mostly(of_any, asking)


def _call(method: MethodDescriptor, known: Known, metadata: AnyMetadata) -> st.SearchStrategy[FuzzCall]:
    name = f"/{method.containing_service.full_name}/{method.name}"
    return st.builds(FuzzCall, st.just(name), _streams(_requests(method.input_type, known)), metadata)


def mostly(usual: st.SearchStrategy[Any], other: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Seven times of eight the usual. `one_of` would count equal strategies as one."""
    return st.sampled_from(range(8)).flatmap(lambda number: usual if number else other)


def _streams(request: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[bytes]]:
    one = request.map(lambda data: [data])
    several = st.lists(st.one_of(request, st.binary(max_size=64)), max_size=3)
    return mostly(one, several)


@st.composite
def _requests(draw: st.DrawFn, descriptor: Descriptor, known: Known) -> bytes:
    message = GetMessageClass(descriptor)()
    if draw(st.integers(0, 2)):
        for each in descriptor.fields:
            if each.name in NEEDED:
                setattr(message, each.name, draw(st.sampled_from(known[each.name])))
            if each.name == "conversation":
                getattr(message, each.name).id = draw(st.sampled_from(known["id"]))
        _fill(draw, message, known, depth=0, most=2)
    else:
        _fill(draw, message, known, depth=0, most=6)
    data = message.SerializeToString()
    how = draw(st.sampled_from(["whole"] * 16 + ["cut", "changed", "extended", "random"]))
    if how == "random":
        return draw(st.binary(max_size=200))
    if how == "extended":
        return data + draw(st.binary(min_size=1, max_size=40))
    if how == "whole" or not data:
        return data
    at = draw(st.integers(0, len(data) - 1))
    return data[:at] if how == "cut" else data[:at] + bytes([draw(st.integers(0, 255))]) + data[at + 1 :]


def _fill(draw: st.DrawFn, message: Message, known: Known, *, depth: int, most: int = 3) -> None:
    """Set at most `most` fields of the message."""
    fields = list(message.DESCRIPTOR.fields)
    for each in draw(st.lists(st.sampled_from(fields), max_size=most, unique=True)) if fields else []:
        target = getattr(message, each.name)
        if each.message_type is not None and each.message_type.GetOptions().map_entry:
            target.update(draw(st.dictionaries(_texts("", known), _texts("", known), max_size=3)))
        elif each.is_repeated:
            _extend(draw, target, each, known, depth)
        elif each.message_type is None:
            setattr(message, each.name, draw(_values(each, known)))
        else:
            target.SetInParent()
            if depth < MOST_DEPTH:
                _fill(draw, target, known, depth=depth + 1)


def _extend(draw: st.DrawFn, target: Any, each: FieldDescriptor, known: Known, depth: int) -> None:
    for _ in range(draw(st.integers(1, 2))):
        if each.message_type is None:
            target.append(draw(_values(each, known)))
        elif depth < MOST_DEPTH:
            _fill(draw, target.add(), known, depth=depth + 1)
    if len(target) and draw(st.integers(0, 19)) == 0:
        target.extend([target[0]] * draw(st.sampled_from([20, 300])))


def _values(each: FieldDescriptor, known: Known) -> st.SearchStrategy[Any]:
    kind = each.cpp_type
    if kind == FieldDescriptor.CPPTYPE_STRING:
        return _bytes() if each.type == FieldDescriptor.TYPE_BYTES else _texts(each.name, known)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if kind == FieldDescriptor.CPPTYPE_DOUBLE:
        return st.one_of(st.floats(), st.floats(0, 2))
    if kind == FieldDescriptor.CPPTYPE_ENUM:
        assert each.enum_type is not None
        numbers = [value.number for value in each.enum_type.values]
        return mostly(st.sampled_from(numbers), _integers(31))
    return _integers(INTEGERS[kind])


def _integers(bits: int) -> st.SearchStrategy[int]:
    return st.one_of(st.integers(0, 3), st.integers(-(2**bits), 2**bits - 1))


def _bytes() -> st.SearchStrategy[bytes]:
    return st.one_of(st.binary(max_size=64), st.just(PNG))


def _texts(name: str, known: Known) -> st.SearchStrategy[str]:
    usual = st.one_of(
        st.text(max_size=20), st.sampled_from(ODD_TEXTS), st.sampled_from(LONG).map(lambda length: "x" * length)
    )
    return mostly(st.sampled_from(known[name]), usual) if name in known else usual
