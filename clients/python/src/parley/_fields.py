"""What may stand beside the text of a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

from parley.v1 import chat_pb2, resources_pb2

ImageSource = bytes | str | resources_pb2.Image


class RequestFields(TypedDict, total=False):
    """Each overrides the same field of a `ReplyRequest` that is given. `_s` is in seconds."""

    request_id: str | None
    """Idempotency key, unique within tenant and end user for 24 hours, at most 128 characters. The same key with
    another payload is REQUEST_ID_REUSED. Empty: the client makes one.
    """

    conversation_id: str
    """The conversation to continue. Empty: `new_conversation` is started, and `accepted` tells its id."""

    new_conversation: resources_pb2.Conversation
    """Used when `conversation_id` is empty: system sections, title, labels, context and so on for all its turns."""

    input: Sequence[resources_pb2.Message]
    """New messages (USER, ASSISTANT or TOOL) to append before the reply is generated. It may be empty only with
    `replace_message_id`.
    """

    images: Sequence[ImageSource]
    """Images that go with `text` as one message: bytes, whose kind is read off them, https URLs, or messages."""

    after_message_id: str
    """After this message: a fork. The partial text of a failed reply is part of prompts once it is named here."""

    replace_message_id: str
    """Beside this message, under the same parent: with input an edit, without input a regeneration or a new attempt.
    The `message_id` of any reply of the conversation may be named, even of one that runs (with INTERRUPT) or that
    left no message. Without input, a USER or TOOL message gets a new answer below it.
    """

    model: str
    """Model alias of the catalog. Empty: the conversation's, else the server's default."""

    fallback_models: Sequence[str]
    """Aliases tried in order when the model fails before its first token. Empty: the catalog's own list."""

    system: Sequence[str]
    """System prompt sections for this reply alone, joined by "\\n---\\n". Empty: the conversation's."""

    sampling: chat_pb2.Sampling
    """Every setting is optional, since zero is a legal temperature; what is unset is left to the model."""

    tools: Sequence[chat_pb2.Tool]
    """A function that the model may call. The engine relays calls; the caller runs them and sends the results as
    `input`.
    """

    tool_choice: str
    """"auto" (default), "none", "required", or the name of a tool."""

    json_schema: str
    """JSON Schema that the provider is asked to keep to; the engine passes it on and does not validate the answer."""

    concurrency: Literal["reject", "interrupt"]
    """What happens when another reply already runs in the conversation."""

    on_disconnect: Literal["continue", "cancel"]
    """What happens to the generation when its last reader leaves."""

    orphan_ttl_s: float
    """With CONTINUE: the generation is cancelled this long after its last reader left; the count starts when a first
    reader leaves, and a PollReply or GetReply counts as a reader for a minute. Default 5 minutes; zero is never.
    """

    time_limit_s: float
    """Longest time the generation may take, whatever the call's deadline. Default and ceiling: the server's (10
    minutes).
    """

    heartbeat_s: float
    """A heartbeat chunk after this much silence, since some load balancers ignore HTTP/2 pings. Default 15 s, 1 s to 60
    s.
    """

    reasoning: bool
    """Whether reasoning chunks are sent."""

    labels: Mapping[str, str]
    """The caller's own labels, kept with the reply. At most 16, of 64 characters each side."""
