"""What a stream of a reply yields, as plain frozen values. A reader ignores the kinds that it has no use for."""

from __future__ import annotations

from dataclasses import dataclass, field

from parley.errors import ParleyError
from parley.v1 import resources_pb2


@dataclass(frozen=True, slots=True)
class Accepted:
    """The user's message and the reply are durable. Comes once, first, however often the stream is resumed."""

    reply_id: str
    conversation_id: str
    message_id: str
    """The message that will hold the answer."""
    input_message_ids: tuple[str, ...]
    model: str
    replayed: bool
    """Whether an earlier call with the same `request_id` had started the reply."""


@dataclass(frozen=True, slots=True)
class Text:
    """Text to append to the answer: whole code points, never half an emoji."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of the model's reasoning, where it was asked for."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call, or a piece of one: `id` and `name` come with the first piece of an `index`, `arguments` (JSON) are
    to be joined.
    """

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class UsageUpdate:
    """Tokens counted so far: a total, not an increment."""

    usage: resources_pb2.Usage


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Replaces everything so far: `text` is the whole answer up to here."""

    text: str
    reply: resources_pb2.Reply


@dataclass(frozen=True, slots=True)
class Reconnecting:
    """The call was cut; the stream goes on after `delay_s`, without loss or repetition. `attempt` counts from 1."""

    attempt: int
    delay_s: float
    error: ParleyError


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a reply that completed or was cancelled, and the last event."""

    reason: str
    """The name of a `FinishReason`; one newer than this client reads OTHER."""
    text: str
    """The whole answer, from the stream's starting point on."""
    model: str = ""
    cancel_reason: str = ""
    usage: resources_pb2.Usage = field(default_factory=resources_pb2.Usage)


Event = Accepted | Text | Reasoning | ToolCall | UsageUpdate | Snapshot | Reconnecting | Finished
