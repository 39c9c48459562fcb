"""Builds a `ReplyRequest` from what a caller writes in Python. No I/O."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypedDict

from google.protobuf.duration_pb2 import Duration

from parley.v1 import chat_pb2, resources_pb2

ImageSource = bytes | str | resources_pb2.Image

_CONCURRENCY: Final = {
    "reject": chat_pb2.CONCURRENCY_POLICY_REJECT,
    "interrupt": chat_pb2.CONCURRENCY_POLICY_INTERRUPT,
}
_ON_DISCONNECT: Final = {
    "continue": chat_pb2.DISCONNECT_POLICY_CONTINUE,
    "cancel": chat_pb2.DISCONNECT_POLICY_CANCEL,
}
_SIGNATURES: Final = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
)


class RequestFields(TypedDict, total=False):
    """What may stand beside the text of a request; each overrides the same field of a `ReplyRequest` that is given.

    `images` are bytes (the kind is read off them), https URLs, or `Image`s; they go with the text. `input` replaces
    text and images by whole messages. `orphan_ttl_s`, `time_limit_s` and `heartbeat_s` are in seconds. `reasoning` asks
    for reasoning events. The rest is named as in `ReplyRequest`.
    """

    request_id: str | None
    conversation_id: str
    new_conversation: resources_pb2.Conversation
    images: Sequence[ImageSource]
    input: Sequence[resources_pb2.Message]
    after_message_id: str
    replace_message_id: str
    model: str
    fallback_models: Sequence[str]
    system: Sequence[str]
    sampling: chat_pb2.Sampling
    tools: Sequence[chat_pb2.Tool]
    tool_choice: str
    json_schema: str
    concurrency: Literal["reject", "interrupt"]
    on_disconnect: Literal["continue", "cancel"]
    orphan_ttl_s: float
    time_limit_s: float
    heartbeat_s: float
    reasoning: bool
    labels: Mapping[str, str]


def build_request(message: str | chat_pb2.ReplyRequest, fields: RequestFields) -> chat_pb2.ReplyRequest:
    """A request of its own, with a `request_id`, so that it may be sent any number of times.

    Raises ValueError for an image of no kind that Parley takes, and for a single string where a list is meant.
    """
    request = chat_pb2.ReplyRequest()
    if isinstance(message, chat_pb2.ReplyRequest):
        request.CopyFrom(message)
    else:
        request.text = message
    _put_content(request, fields)
    _put_position(request, fields)
    _put_lists(request, fields)
    _put_options(request, fields)
    request.request_id = fields.get("request_id") or request.request_id or str(uuid.uuid4())
    return request


def stream_options(*, reasoning: bool = False, heartbeat_s: float | None = None) -> chat_pb2.StreamOptions:
    """Options of a stream; without `heartbeat_s` the server's default."""
    options = chat_pb2.StreamOptions(reasoning=reasoning)
    if heartbeat_s is not None:
        options.heartbeat.CopyFrom(duration(heartbeat_s))
    return options


def duration(seconds: float) -> Duration:
    """A protobuf duration, to the nanosecond."""
    whole = math.floor(seconds)
    return Duration(seconds=whole, nanos=min(round((seconds - whole) * 1e9), 999_999_999))


def _put_content(request: chat_pb2.ReplyRequest, fields: RequestFields) -> None:
    if "input" in fields:
        request.ClearField("input")
        request.input.extend(fields["input"])
    images = fields.get("images")
    if not images:
        return
    if isinstance(images, bytes | str):
        raise ValueError("images: a list is meant, not one image")  # noqa: TRY004 - one kind of error for any wrong field
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
    return resources_pb2.Image(data=source, mime_type=_mime_type(source))


def _mime_type(content: bytes) -> str:
    for signature, mime_type in _SIGNATURES:
        if content.startswith(signature):
            return mime_type
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    raise ValueError("images: neither PNG, JPEG, WebP nor GIF")


def _put_position(request: chat_pb2.ReplyRequest, fields: RequestFields) -> None:
    if "conversation_id" in fields:
        request.conversation_id = fields["conversation_id"]
    if "new_conversation" in fields:
        request.new_conversation.CopyFrom(fields["new_conversation"])
    if "after_message_id" in fields and "replace_message_id" in fields:
        raise ValueError("after_message_id and replace_message_id exclude each other")
    if "after_message_id" in fields:
        request.after_message_id = fields["after_message_id"]
    if "replace_message_id" in fields:
        request.replace_message_id = fields["replace_message_id"]


def _put_lists(request: chat_pb2.ReplyRequest, fields: RequestFields) -> None:
    if "system" in fields:
        request.ClearField("system")
        request.system.extend(_sections("system", fields["system"]))
    if "fallback_models" in fields:
        request.ClearField("fallback_models")
        request.fallback_models.extend(_sections("fallback_models", fields["fallback_models"]))
    if "tools" in fields:
        request.ClearField("tools")
        request.tools.extend(fields["tools"])
    if "labels" in fields:
        request.ClearField("labels")
        request.labels.update(fields["labels"])


def _sections(name: str, values: Sequence[str]) -> Sequence[str]:
    if isinstance(values, str):
        raise ValueError(f"{name}: a list is meant, not one string")  # noqa: TRY004 - one kind of error for any wrong field
    return values


def _put_options(request: chat_pb2.ReplyRequest, fields: RequestFields) -> None:
    if "model" in fields:
        request.model = fields["model"]
    if "sampling" in fields:
        request.sampling.CopyFrom(fields["sampling"])
    if "tool_choice" in fields:
        request.tool_choice = fields["tool_choice"]
    if "json_schema" in fields:
        request.json_schema = fields["json_schema"]
    if "concurrency" in fields:
        request.concurrency = _CONCURRENCY[fields["concurrency"]]
    if "on_disconnect" in fields:
        request.on_disconnect = _ON_DISCONNECT[fields["on_disconnect"]]
    if "orphan_ttl_s" in fields:
        request.orphan_ttl.CopyFrom(duration(fields["orphan_ttl_s"]))
    if "time_limit_s" in fields:
        request.time_limit.CopyFrom(duration(fields["time_limit_s"]))
    if "heartbeat_s" in fields:
        request.stream_options.heartbeat.CopyFrom(duration(fields["heartbeat_s"]))
    if "reasoning" in fields:
        request.stream_options.reasoning = fields["reasoning"]
