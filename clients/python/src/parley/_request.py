"""Builds a `ReplyRequest` from what a caller writes in Python. No I/O."""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from parley._fields import ImageSource, RequestFields
from parley.v1 import chat_pb2, resources_pb2

_SIGNATURES: Final = (
    (re.compile(rb"\x89PNG\r\n\x1a\n"), "image/png"),
    (re.compile(rb"\xff\xd8\xff"), "image/jpeg"),
    (re.compile(rb"GIF8"), "image/gif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), "image/webp"),
)


def build_request(message: str | chat_pb2.ReplyRequest, fields: RequestFields) -> chat_pb2.ReplyRequest:
    """A request of its own, with a `request_id`, so that it may be sent any number of times.

    Raises ValueError for an image of no kind that Parley takes, for a single string where a list is meant, and for a
    name that is no field.
    """
    request = chat_pb2.ReplyRequest()
    if isinstance(message, chat_pb2.ReplyRequest):
        request.CopyFrom(message)
    else:
        request.text = message
    if "after_message_id" in fields and "replace_message_id" in fields:
        raise ValueError("after_message_id and replace_message_id exclude each other")
    given: dict[str, Any] = {**fields}
    key, images = given.pop("request_id", None), given.pop("images", None)
    options = {name: given.pop(name) for name in ("reasoning", "heartbeat_s") if name in given}
    for name, value in given.items():
        _put(request, name, value)
    for name, value in options.items():
        _put(request.stream_options, name, value)
    if images:
        _illustrate(request, _list("images", images))
    request.request_id = key or request.request_id or str(uuid.uuid4())
    return request


def stream_options(*, reasoning: bool = False, heartbeat_s: float | None = None) -> chat_pb2.StreamOptions:
    """Options of a stream; without `heartbeat_s` the server's default."""
    heartbeat = None if heartbeat_s is None else duration(heartbeat_s)
    return chat_pb2.StreamOptions(reasoning=reasoning, heartbeat=heartbeat)


def duration(seconds: float) -> Duration:
    """A protobuf duration, to the nanosecond."""
    whole = math.floor(seconds)
    return Duration(seconds=whole, nanos=min(round((seconds - whole) * 1e9), 999_999_999))


def _put(message: Message, name: str, value: Any) -> None:
    """Sets a field to what Python has in its place: lists and maps anew, seconds for a duration, a name for an enum."""
    field = message.DESCRIPTOR.fields_by_name.get(name.removesuffix("_s"))
    if field is None:
        raise ValueError(f"{name}: a request has no such field")
    if value is None:
        return
    if field.is_repeated:
        message.ClearField(field.name)
        held = getattr(message, field.name)
        held.update(value) if isinstance(value, Mapping) else held.extend(_list(name, value))
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(duration(value) if name.endswith("_s") else value)
    elif field.enum_type is None:
        setattr(message, field.name, value)
    else:
        numbers = {each.name.rpartition("_")[2].lower(): each.number for each in field.enum_type.values if each.number}
        if value not in numbers:
            raise ValueError(f"{name}: {' or '.join(numbers)} is meant, not {value}")
        setattr(message, field.name, numbers[value])


def _list(name: str, value: Sequence[Any]) -> Sequence[Any]:
    if isinstance(value, bytes | str):
        raise ValueError(f"{name}: a list is meant, not one value")  # noqa: TRY004 - one kind of error for any wrong field
    return value


def _illustrate(request: chat_pb2.ReplyRequest, images: Sequence[ImageSource]) -> None:
    """Makes one message of the text and the images."""
    user = request.input.add(role=resources_pb2.ROLE_USER)
    if request.text:
        user.parts.add(text=request.text)
        request.text = ""
    for source in images:
        user.parts.add(image=_image(source))


def _image(source: ImageSource) -> resources_pb2.Image:
    if isinstance(source, resources_pb2.Image):
        return source
    if isinstance(source, str):
        return resources_pb2.Image(url=source)
    for signature, mime_type in _SIGNATURES:
        if signature.match(source):
            return resources_pb2.Image(data=source, mime_type=mime_type)
    raise ValueError("images: neither PNG, JPEG, WebP nor GIF")
