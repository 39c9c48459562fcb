"""The events of a reply's stream, as frozen values. Readers can ignore the types that they do not use."""

from __future__ import annotations

from dataclasses import dataclass, field

from parley.errors import ParleyError
from parley.v1 import resources_pb2


@dataclass(frozen=True, slots=True)
class Accepted:
    """The user's message and the reply are stored.

    The first event, and sent only once even if the stream reconnects.
    """

    reply_id: str
    conversation_id: str
    message_id: str
    """The message for the answer."""
    input_message_ids: tuple[str, ...]
    model: str
    replayed: bool
    """True if an earlier call with the same `request_id` started the reply."""
    ignored_settings: tuple[str, ...] = ()
    """The names of the sampling settings that the requested model does not take, such as "temperature"."""
    quota: resources_pb2.Quota | None = None
    """The limit of which the least part is left; None without limits, and for a reply that was accepted earlier."""


@dataclass(frozen=True, slots=True)
class Text:
    """Text to append to the answer. It never splits a code point."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of the model's reasoning; only with `reasoning=True`."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call, or a piece of one.

    The first piece of each `index` has `id` and `name`. The joined `arguments` of all pieces are JSON.
    """

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class UsageUpdate:
    """The tokens so far, as a total."""

    usage: resources_pb2.Usage


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Replaces all earlier content: `text` is the whole answer so far."""

    text: str
    reply: resources_pb2.Reply


@dataclass(frozen=True, slots=True)
class Reconnecting:
    """The call was cut. The stream continues after `delay_s` without loss or repetition. `attempt` counts from 1."""

    attempt: int
    delay_s: float
    error: ParleyError


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event: the reply completed or was cancelled."""

    reason: str
    """The name of a `FinishReason`; OTHER if the client does not have it."""
    text: str
    """The whole answer, from the start of the stream."""
    model: str = ""
    """The alias that served the reply; after a failover, not the requested one."""
    cancel_reason: str = ""
    usage: resources_pb2.Usage = field(default_factory=resources_pb2.Usage)
    provider: str = ""
    """The provider that served the reply."""


Event = Accepted | Text | Reasoning | ToolCall | UsageUpdate | Snapshot | Reconnecting | Finished
