"""What a caller may say about a reply: the fields of `ReplyRequest`, flat, as each language writes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

from tools.clients.comments import Comments

# Of another call, or in place of which its own fields stand.
_LEFT_OUT = {"wait"}
_FLAT = {"stream_options": "StreamOptions"}
# Where a client does not as the contract says.
_OWN_DOCS = {
    "request_id": "Idempotency key, unique within tenant and end user for 24 hours, at most 128 characters. The same "
    "key with another payload is REQUEST_ID_REUSED. Empty: the client makes one.",
}
_IMAGES = "Images that go with `text` as one message: bytes, whose kind is read off them, https URLs, or messages."


@dataclass(frozen=True)
class Field:
    """One of them. `type` is string, bool, map, images, duration, choice (of `choices`), or the name of a message.

    `inside` is the message or the oneof that it stands in, in the contract.
    """

    name: str
    type: str
    doc: str
    home: str = ""
    many: bool = False
    choices: tuple[str, ...] = ()
    enum: str = ""
    inside: str = ""


class RequestFields:
    """Reads them off `chat.proto`."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._messages = {each.name: (index, each) for index, each in enumerate(file.message_type)}
        self._enums = {f".{file.package}.{each.name}": each for each in file.enum_type}
        self._comments = Comments(file)
        # What a type's comment says holds for a field without one.
        self._types = {
            f".{file.package}.{each}": self._comments.of((kind, index))
            for kind, names in ((4, list(self._messages)), (5, [each.name for each in file.enum_type]))
            for index, each in enumerate(names)
        }

    def of(self, message: str) -> Iterator[Field]:
        """Those of a message and of what is flat in it."""
        index, descriptor = self._messages[message]
        for number, field in enumerate(descriptor.field):
            if field.name in _FLAT:
                yield from (replace(each, inside=field.name) for each in self.of(_FLAT[field.name]))
            elif field.name not in _LEFT_OUT:
                doc = self._comments.of((4, index, 2, number)) or self._types.get(field.type_name, "")
                one = self._field(field, _OWN_DOCS.get(field.name, doc))
                oneof = descriptor.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else ""
                yield replace(one, inside=oneof)
            if field.name == "input":
                yield Field("images", "images", _IMAGES)

    def _field(self, field: FieldDescriptorProto, doc: str) -> Field:
        many = field.label == FieldDescriptorProto.LABEL_REPEATED
        if field.type == FieldDescriptorProto.TYPE_ENUM:
            names = [each.name.rpartition("_")[2].lower() for each in self._enums[field.type_name].value if each.number]
            return Field(field.name, "choice", doc, choices=tuple(names), enum=field.type_name.rpartition(".")[2])
        if field.type != FieldDescriptorProto.TYPE_MESSAGE:
            return Field(
                field.name, "bool" if field.type == FieldDescriptorProto.TYPE_BOOL else "string", doc, many=many
            )
        if field.type_name == ".google.protobuf.Duration":
            return Field(field.name, "duration", doc)
        if field.type_name.endswith("Entry"):
            return Field(field.name, "map", doc)
        home = "chat" if field.type_name in self._types else "resources"
        return Field(field.name, field.type_name.rpartition(".")[2], doc, home=home, many=many)
