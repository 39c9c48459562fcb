"""Builds a `ReplyRequest` from text and keyword arguments."""

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
    """Returns a new request with a `request_id`, so that it can be retried.

    Raises ValueError for an unknown image type, a single value instead of a list, an unknown field, an unknown policy
    name, and fields that exclude each other.
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
        _add_images(request, _list("images", images))
    request.request_id = key or request.request_id or str(uuid.uuid4())
    return request


def stream_options(*, reasoning: bool = False, heartbeat_s: float | None = None) -> chat_pb2.StreamOptions:
    """Returns stream options; `heartbeat_s` of None is the server's default."""
    heartbeat = None if heartbeat_s is None else duration(heartbeat_s)
    return chat_pb2.StreamOptions(reasoning=reasoning, heartbeat=heartbeat)


def duration(seconds: float) -> Duration:
    """Returns a protobuf duration, rounded to nanoseconds."""
    whole = math.floor(seconds)
    return Duration(seconds=whole, nanos=min(round((seconds - whole) * 1e9), 999_999_999))


def _put(message: Message, name: str, value: Any) -> None:
    """Sets a field from a Python value: seconds for a duration, a name for an enum; replaces lists and maps."""
    field = message.DESCRIPTOR.fields_by_name.get(name.removesuffix("_s"))
    if field is None:
        raise ValueError(f"{name}: unknown field of a request")
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
            raise ValueError(f"{name}: must be {' or '.join(numbers)}, not {value}")
        setattr(message, field.name, numbers[value])


def _list(name: str, value: Sequence[Any]) -> Sequence[Any]:
    if isinstance(value, bytes | str):
        raise ValueError(f"{name}: must be a list, not a single value")  # noqa: TRY004 - ValueError for any wrong field
    return value


def _add_images(request: chat_pb2.ReplyRequest, images: Sequence[ImageSource]) -> None:
    """Moves the text into one message with the images."""
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
    raise ValueError("images: must be PNG, JPEG, WebP or GIF")
