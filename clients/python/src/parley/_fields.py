"""Keyword arguments of `stream_reply` and `create_reply`: the fields of a `ReplyRequest`, without nesting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

from parley.v1 import chat_pb2, resources_pb2

ImageSource = bytes | str | resources_pb2.Image


class RequestFields(TypedDict, total=False):
    """Each one overrides the same field of a given `ReplyRequest`. Names that end in `_s` are in seconds."""

    request_id: str | None
    """Idempotency key, unique within tenant and end user for 24 hours, at most 128 characters. The same key with
    another payload is REQUEST_ID_REUSED. Empty: the client makes one.
    """

    conversation_id: str
    """The conversation to continue. Empty: `new_conversation` is started, and `accepted` has its id."""

    new_conversation: resources_pb2.Conversation
    """Used when `conversation_id` is empty: system sections, title, labels, context and so on for the conversation."""

    input: Sequence[resources_pb2.Message]
    """New messages (USER, ASSISTANT or TOOL) to append before the reply is generated. It may be empty only with
    `replace_message_id`.
    """

    images: Sequence[ImageSource]
    """Images, sent with `text` as one message: bytes (PNG, JPEG, WebP or GIF), https URLs, or `Image` messages."""

    after_message_id: str
    """After this message: a fork. The partial text of a failed reply is part of prompts only if it is named here."""

    replace_message_id: str
    """Beside this message, under the same parent: with input an edit, without input a regeneration or a new attempt.
    The `message_id` of any reply of the conversation may be named, also of one that runs (with INTERRUPT) or that
    ended without a message. Without input, a USER or TOOL message gets a new answer below it.
    """

    model: str
    """Model alias of the catalog. Empty: the conversation's, else the server's default."""

    fallback_models: Sequence[str]
    """Aliases tried in order when the model fails before its first token. Empty: the catalog's own list."""

    system: Sequence[str]
    """System prompt sections for this reply only, joined by "\\n---\\n". Empty: the conversation's."""

    sampling: chat_pb2.Sampling
    """Every setting is optional, since zero is a valid temperature; for unset ones the model's defaults apply."""

    tools: Sequence[chat_pb2.Tool]
    """A function that the model may call. The server streams the calls; the caller runs them and sends results as
    `input`.
    """

    tool_choice: str
    """"auto" (default), "none", "required", or the name of a tool."""

    json_schema: str
    """JSON Schema for the answer, passed to the provider; the server does not validate the answer."""

    concurrency: Literal["reject", "interrupt"]
    """What happens when another reply already runs in the conversation."""

    on_disconnect: Literal["continue", "cancel"]
    """What happens to the generation when its last reader leaves."""

    orphan_ttl_s: float
    """With CONTINUE: the generation is cancelled this long after its last reader has left. The time starts only after a
    first reader was there; a PollReply or GetReply counts as a reader for a minute. Default 5 minutes; zero: never.
    """

    time_limit_s: float
    """Longest time of the generation, independent of the call's deadline. Default and maximum: the server's (10
    minutes).
    """

    heartbeat_s: float
    """A heartbeat is sent after this time without a chunk, since some load balancers ignore HTTP/2 pings. Default 15 s,
    1 s to 60 s.
    """

    reasoning: bool
    """True: reasoning is streamed, too."""

    labels: Mapping[str, str]
    """The caller's own labels, stored with the reply. At most 16; keys and values have at most 64 characters."""
