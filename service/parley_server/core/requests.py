"""A request for a reply, independent of the wire format, and the hash that identifies its payload."""

from __future__ import annotations

import hashlib

import msgspec

from parley_server.core.model import Conversation, Identity, Message, Sampling, Tool, Value
from parley_server.core.store_types import Position

HASH_VERSION = "1"


class ReplyPayload(Value, frozen=True, kw_only=True):
    """The payload of a request. Two calls with the same `request_id` must have equal payloads.

    `new_conversation` is used only if `conversation_id` is empty. `orphan_ttl_s`, `time_limit_s` None: server defaults.
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
        """A versioned hash of the canonical form. The order of map entries does not change it."""
        return payload_hash(self)


class ReplyRequest(Value, frozen=True, kw_only=True):
    """A payload, its caller and its options. If `request_id` is empty, the server creates one."""

    identity: Identity
    request_id: str = ""
    payload: ReplyPayload
    background: bool = False
    traceparent: str = ""


def payload_hash(value: msgspec.Struct) -> str:
    """A versioned SHA-256 hash of the canonical JSON of `value`; the order of map entries does not change it."""
    canonical = msgspec.json.encode(value, order="sorted")
    return f"{HASH_VERSION}:{hashlib.sha256(canonical).hexdigest()}"
