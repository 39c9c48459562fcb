"""The calls of the clients that are one unary call of the contract each, with the contract's own words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
    MethodOptions,
)

from tools.clients.comments import Comments

# Class, method and what stands first in it, by name: the rest of a request follows from its fields.
_METHODS: dict[str, dict[str, tuple[str, tuple[str, ...]]]] = {
    "Conversations": {
        "CreateConversation": ("create", ("conversation",)),
        "GetConversation": ("get", ("conversation_id",)),
        "ListConversations": ("list", ()),
        "UpdateConversation": ("update", ("conversation",)),
        "DeleteConversation": ("delete", ("conversation_id",)),
        "ListMessages": ("messages", ("conversation_id",)),
        "GetImage": ("image", ("image_id",)),
    },
    "Chat": {"GetReply": ("get_reply", ("reply_id",))},
    "Catalog": {"ListModels": ("models", ()), "GetQuota": ("quotas", ())},
}
# A call whose answer has more than its items is offered twice: item by item, and by this name page by page.
_PAGES = {"ListMessages": ("message_pages", "The same messages page by page, with the replies that belong to them.")}
_TYPES = {
    FieldDescriptorProto.TYPE_STRING: "string",
    FieldDescriptorProto.TYPE_INT32: "int",
    FieldDescriptorProto.TYPE_BOOL: "bool",
}
_KEY, _MASK, _PAGE = "request_id", "update_mask", "page_token"
_REPEATABLE = (MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT)


@dataclass(frozen=True)
class Field:
    """A field of a request. `type` is string, int, bool, map, or the name of a message, whose file is its `home`."""

    name: str
    type: str
    home: str = ""
    many: bool = False


@dataclass(frozen=True)
class Method:
    """A call. `returns` is a message's name, or empty; `item` the field of the answer that is returned in its place.

    `key` says whether a request has an idempotency key, `mask` which fields of a message it may name, `paged` that the
    items come in pages; without an `item` the pages are returned. What is not `repeatable` is called once, cut or not.
    """

    service: str
    rpc: str
    name: str
    doc: str
    first: tuple[Field, ...]
    options: tuple[Field, ...]
    returns: str
    item: str
    key: bool
    mask: tuple[str, ...]
    paged: bool
    repeatable: bool
    home: str

    @property
    def request(self) -> str:
        """The message that it sends."""
        return f"{self.rpc}Request"


@dataclass(frozen=True)
class Service:
    """The calls that stand together in a class."""

    name: str
    doc: str
    methods: tuple[Method, ...]


class Contract:
    """The messages and services of all files."""

    def __init__(self, files: Iterable[FileDescriptorProto]) -> None:
        self._messages: dict[str, tuple[DescriptorProto, FileDescriptorProto]] = {}
        self._services: dict[str, Service] = {}
        files = list(files)
        for file in files:
            for message in file.message_type:
                self._messages[f".{file.package}.{message.name}"] = (message, file)
        for file in files:
            for index, service in enumerate(file.service):
                comments = Comments(file)
                self._services[service.name] = Service(
                    service.name,
                    comments.of((6, index)),
                    tuple(self._methods(service.name, service.method, comments, index)),
                )

    def service(self, name: str) -> Service:
        """A class of its own."""
        return self._services[name]

    def calls(self) -> tuple[Method, ...]:
        """What a client itself offers: few calls of each of the other services."""
        return self._services["Chat"].methods + self._services["Catalog"].methods

    def _methods(
        self, service: str, methods: Iterable[MethodDescriptorProto], comments: Comments, index: int
    ) -> Iterator[Method]:
        for number, method in enumerate(methods):
            known = _METHODS.get(service, {}).get(method.name)
            if known is None:
                continue
            found = self._method(service, method, known, comments.of((6, index, 2, number)))
            yield found
            if method.name in _PAGES:
                name, doc = _PAGES[method.name]
                yield replace(found, name=name, doc=doc, returns=method.output_type.rpartition(".")[2], item="")

    def _method(
        self, service: str, method: MethodDescriptorProto, known: tuple[str, tuple[str, ...]], doc: str
    ) -> Method:
        name, first = known
        request, file = self._messages[method.input_type]
        answer, _ = self._messages[method.output_type]
        fields = [self._field(each) for each in request.field]
        names = {each.name for each in fields}
        page = "next_page_token" in {each.name for each in answer.field}
        lists = [each for each in answer.field if each.label == FieldDescriptorProto.LABEL_REPEATED]
        whole = method.output_type.rpartition(".")[2]
        item = lists[0].name if lists and whole.endswith("Response") else ""
        return Method(
            service=service,
            rpc=method.name,
            name=name,
            doc=doc,
            first=tuple(each for each in fields if each.name in first),
            options=tuple(each for each in fields if each.name not in {*first, _KEY, _MASK, _PAGE}),
            returns=lists[0].type_name.rpartition(".")[2] if item else whole if answer.field else "",
            item=item,
            key=_KEY in names,
            mask=tuple(self._changeable(request)) if _MASK in names else (),
            paged=page,
            repeatable=_KEY in names or method.options.idempotency_level in _REPEATABLE,
            home=_home(file),
        )

    def _field(self, field: FieldDescriptorProto) -> Field:
        many = field.label == FieldDescriptorProto.LABEL_REPEATED
        if field.type != FieldDescriptorProto.TYPE_MESSAGE:
            return Field(field.name, _TYPES[field.type], many=many)
        if field.type_name not in self._messages:
            return Field(field.name, "map" if many else field.type_name.rpartition(".")[2])
        message, file = self._messages[field.type_name]
        return Field(field.name, message.name, home=_home(file), many=many)

    def _changeable(self, request: DescriptorProto) -> Iterator[str]:
        """The fields of the resource that a caller sets: all that the server does not, but its id."""
        resource = next(each for each in request.field if each.name == "conversation")
        message, file = self._messages[resource.type_name]
        comments = Comments(file)
        index = list(file.message_type).index(message)
        for number, field in enumerate(message.field):
            if "by the server" not in comments.of((4, index, 2, number)):
                yield field.name


def _home(file: FileDescriptorProto) -> str:
    """The name of a proto file without folder and ending."""
    return file.name.rpartition("/")[2].removesuffix(".proto")
