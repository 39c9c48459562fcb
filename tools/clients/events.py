"""The events of the clients: what a stream yields, in place of the chunks of the contract."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Field:
    """A field of an event. `type` is a name of `tools.clients.languages`."""

    name: str
    type: str = "string"
    doc: str = ""
    optional: bool = False


@dataclass(frozen=True)
class Event:
    """A kind of event; `kind` names it in its own data, where that differs. A `piece` is to be joined with others."""

    name: str
    doc: str
    fields: tuple[Field, ...]
    piece: bool = False
    kind: str = ""


EVENTS = (
    Event(
        "Accepted",
        "The user's message and the reply are durable. Comes once, first, however often the stream is resumed.",
        (
            Field("reply_id"),
            Field("conversation_id"),
            Field("message_id", doc="The message that will hold the answer."),
            Field("input_message_ids", "strings"),
            Field("model"),
            Field("replayed", "bool", "Whether an earlier call with the same `request_id` had started the reply."),
        ),
    ),
    Event("Text", "Text to append to the answer: whole code points, never half an emoji.", (Field("text"),)),
    Event("Reasoning", "A piece of the model's reasoning, where it was asked for.", (Field("text"),)),
    Event(
        "ToolCall",
        "A tool call, or a piece of one: `id` and `name` come with the first piece of an `index`, `arguments` (JSON) "
        "are to be joined.",
        (Field("index", "int"), Field("id"), Field("name"), Field("arguments")),
        piece=True,
    ),
    Event("UsageUpdate", "Tokens counted so far: a total, not an increment.", (Field("usage", "Usage"),), kind="usage"),
    Event(
        "Snapshot",
        "Replaces everything so far: `text` is the whole answer up to here.",
        (Field("text"), Field("reply", "Reply")),
    ),
    Event(
        "Reconnecting",
        "The call was cut; the stream goes on after `delay`, without loss or repetition. `attempt` counts from 1.",
        (Field("attempt", "int"), Field("delay", "duration"), Field("error", "error")),
    ),
    Event(
        "Finished",
        "The end of a reply that completed or was cancelled, and the last event.",
        (
            Field("reason", "finish", "The name of a `FinishReason`; one newer than this client reads OTHER."),
            Field("text", doc="The whole answer, from the stream's starting point on."),
            Field("model", optional=True),
            Field("cancel_reason", optional=True),
            Field("usage", "Usage", optional=True),
        ),
    ),
)
