"""What a caller asks for, in the core's words, and the parts of a plan that follow from it."""

from __future__ import annotations

import hashlib

import msgspec

from parley_server.core.model import Conversation, Identity, Message, Sampling, Tool, Value
from parley_server.core.store_types import Position

HASH_VERSION = "1"


class ReplyPayload(Value, frozen=True, kw_only=True):
    """The payload of a request: what two calls with one `request_id` must agree on.

    `new_conversation` counts where `conversation_id` is empty. `orphan_ttl_s` and `time_limit_s` None: the server's.
    """

    conversation_id: str = ""
    new_conversation: Conversation | None = None
    messages: tuple[Message, ...] = ()
    position: Position = Position()
    model: str = ""
    fallback_models: tuple[str, ...] = ()
    system: tuple[str, ...] = ()
    sampling: Sampling = Sampling()
    tools: tuple[Tool, ...] = ()
    tool_choice: str = ""
    json_schema: str = ""
    interrupt: bool = False
    cancel_on_disconnect: bool = False
    orphan_ttl_s: float | None = None
    time_limit_s: float | None = None
    labels: dict[str, str] = msgspec.field(default_factory=dict)

    def payload_hash(self) -> str:
        """A versioned hash of the canonical form: equal for equal payloads, whatever the order of their maps."""
        return payload_hash(self)


class ReplyRequest(Value, frozen=True, kw_only=True):
    """A question, and who asks it. An empty `request_id` is replaced by one of the server's own."""

    identity: Identity
    request_id: str = ""
    payload: ReplyPayload
    background: bool = False
    traceparent: str = ""


def payload_hash(value: msgspec.Struct) -> str:
    """See `ReplyPayload.payload_hash`."""
    canonical = msgspec.json.encode(value, order="sorted")
    return f"{HASH_VERSION}:{hashlib.sha256(canonical).hexdigest()}"
