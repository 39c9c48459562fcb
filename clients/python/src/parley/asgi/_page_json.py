"""The JSON of the page routes: conversations, messages and the events of a reply."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from parley._status import error_of_proto
from parley._stream import ReplyStream
from parley.asgi._refusal import error_body, family
from parley.errors import ConnectionLost, ParleyError
from parley.events import Accepted, Event, Finished, Reconnecting, Snapshot, Text
from parley.v1 import conversations_pb2, resources_pb2

_STATES = {
    resources_pb2.Reply.STATE_COMPLETED: "completed",
    resources_pb2.Reply.STATE_CANCELLED: "cancelled",
    resources_pb2.Reply.STATE_FAILED: "failed",
}
_FINISH = "FINISH_REASON_"


def conversation_json(conversation: resources_pb2.Conversation) -> dict[str, Any]:
    """Returns a conversation of the list."""
    return {
        "id": conversation.id,
        "title": conversation.title,
        "create_time": time_json(conversation.create_time),
        "update_time": time_json(conversation.update_time),
        "active_reply_id": conversation.active_reply_id or None,
    }


def messages_json(page: conversations_pb2.ListMessagesResponse, *, answered: str = "") -> list[dict[str, Any]]:
    """Returns the messages of a page, oldest first, with those replies that ended without a message.

    `answered` is the message that a running reply answers: earlier replies to it are left out. The results of tools
    are left out, too.
    """
    replies = {reply.id: reply for reply in page.replies}
    written = {message.reply_id for message in page.messages}
    empty = {reply.parent_message_id: reply for reply in page.replies if reply.id not in written}
    empty.pop(answered, None)
    shown: list[dict[str, Any]] = []
    for message in reversed(page.messages):
        if message.role != resources_pb2.ROLE_TOOL:
            shown.append(_message_json(message, replies.get(message.reply_id)))
        if message.id in empty:
            shown.append(_empty_json(empty[message.id]))
    return shown


def time_json(time: Timestamp) -> str:
    """Returns RFC 3339 in UTC."""
    return str(time.ToJsonString())


def reply_events(stream: ReplyStream, after: int) -> Callable[[Event | ParleyError], Mapping[str, Any] | None]:
    """Returns the function that converts the events of this stream to the page's events."""

    def convert(event: Event | ParleyError) -> Mapping[str, Any] | None:
        match event:
            case Accepted():
                ids = {"reply_id": event.reply_id, "message_id": event.message_id}
                return {"type": "reply", **ids, "after": after}
            case Text() | Snapshot():
                kind = "text" if isinstance(event, Text) else "snapshot"
                return {"type": kind, "text": event.text, "sequence": stream.sequence}
            case Reconnecting():
                return {"type": "waiting", "attempt": event.attempt, "delay_ms": round(event.delay_s * 1000)}
            case Finished():
                return _finished_json(event, stream.message_id)
            case ConnectionLost():
                return None  # the reply may still run: without a last event, the page attaches again
            case ParleyError():
                return _failed_json(event, stream.message_id)
        return None

    return convert


def _finished_json(event: Finished, message_id: str) -> dict[str, Any]:
    return {
        "type": "finished",
        "reason": event.reason,
        "cancel_reason": event.cancel_reason,
        "model": event.model,
        **_usage_json(event.usage),
        "message_id": message_id,
    }


def _failed_json(error: ParleyError, message_id: str) -> dict[str, Any]:
    return {
        "type": "failed",
        **_error_json(error),
        "retry_after_s": error.retry_after_s,
        "message_id": message_id,
    }


def _message_json(message: resources_pb2.Message, reply: resources_pb2.Reply | None) -> dict[str, Any]:
    images = [part.image for part in message.parts if part.HasField("image")]
    return {
        "id": message.id,
        "role": "assistant" if message.role == resources_pb2.ROLE_ASSISTANT else "user",
        "text": "".join(part.text for part in message.parts),
        "images": [{"id": image.image_id, "mime_type": image.mime_type} for image in images if image.image_id],
        "partial": message.partial,
        "create_time": time_json(message.create_time),
        "reply": None if reply is None else _reply_json(reply),
    }


def _empty_json(reply: resources_pb2.Reply) -> dict[str, Any]:
    """The message of a reply that ended without one."""
    message = resources_pb2.Message(
        id=reply.message_id, role=resources_pb2.ROLE_ASSISTANT, partial=True, create_time=reply.create_time
    )
    return _message_json(message, reply)


def _reply_json(reply: resources_pb2.Reply) -> dict[str, Any]:
    return {
        "id": reply.id,
        "state": _STATES.get(reply.state, "running"),
        "model": reply.model,
        "finish_reason": resources_pb2.FinishReason.Name(reply.finish_reason).removeprefix(_FINISH),
        **_usage_json(reply.usage),
        "error": _error_json(error_of_proto(reply.error)) if reply.HasField("error") else None,
    }


def _usage_json(usage: resources_pb2.Usage) -> dict[str, Any]:
    cost_usd = usage.cost_nano_usd / 1e9 if usage.HasField("cost_nano_usd") else None
    return {"input_tokens": usage.prompt_tokens, "output_tokens": usage.completion_tokens, "cost_usd": cost_usd}


def _error_json(error: ParleyError) -> dict[str, Any]:
    return error_body(error.message, error.reason or family(502)[0], retryable=error.retryable)
