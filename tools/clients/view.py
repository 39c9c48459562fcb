"""What a stream shows of its reply, and what a client may be told: the same in each language."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Property:
    """Something that a stream knows. `sources` are where it is looked for, in order: transcript, accepted, request."""

    name: str
    type: str
    doc: str
    sources: tuple[str, ...] = ("transcript",)


@dataclass(frozen=True)
class Option:
    """A setting of a client. `default_s` is of a duration, where 0 is no limit; `header` is what carries a text."""

    name: str
    type: str
    doc: str
    default_s: int = 0
    header: str = ""


VIEW = (
    Property(
        "request_id",
        "string",
        "The idempotency key of the request; empty for a stream made by `resume`.",
        sources=("request",),
    ),
    Property("reply_id", "string", "Empty until the reply is accepted."),
    Property(
        "conversation_id",
        "string",
        "Where the reply is; of a new conversation, empty until the reply is accepted.",
        sources=("accepted", "request"),
    ),
    Property(
        "message_id",
        "string",
        "The message that will hold the answer; empty until the reply is accepted.",
        sources=("accepted",),
    ),
    Property("sequence", "int", "The cursor: to resume the reply after it goes on from here."),
    Property("text", "string", "The answer as far as it has been read."),
    Property(
        "tool_calls", "tool calls", "The tool calls as far as they have been read, each with its arguments joined."
    ),
    Property("finished", "end", "The end, once it has been read."),
)

OPTIONS = (
    Option("api_key", "string", "A static key or a JWT.", header="authorization"),
    Option("end_user", "string", "Whom an API key acts for.", header="x-end-user"),
    Option("backoff", "backoff", "How streams and calls are tried again."),
    Option("call_timeout", "duration", "The time limit of one attempt of a call that is not a stream.", 30),
    Option(
        "silence",
        "duration",
        "A stream that brings nothing for so long, not even a heartbeat, is attached anew.",
        90,
    ),
    Option("attempt_timeout", "duration", "A stream whose call has lasted so long is attached anew."),
)
