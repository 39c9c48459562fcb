"""Python client of Parley. What is not named here or in `parley.errors` is private; `parley.v1` is generated."""

from parley._backoff import Backoff
from parley._client import Client
from parley._conversations import Conversations
from parley._fields import RequestFields
from parley._stream import ReplyStream
from parley.errors import (
    ConnectionLost,
    LimitExceeded,
    NotFound,
    ParleyError,
    ReplyFailed,
    ReplyInProgress,
    Unavailable,
)
from parley.events import (
    Accepted,
    Event,
    Finished,
    Reasoning,
    Reconnecting,
    Snapshot,
    Text,
    ToolCall,
    UsageUpdate,
)

__all__ = [
    "Accepted",
    "Backoff",
    "Client",
    "ConnectionLost",
    "Conversations",
    "Event",
    "Finished",
    "LimitExceeded",
    "NotFound",
    "ParleyError",
    "Reasoning",
    "Reconnecting",
    "ReplyFailed",
    "ReplyInProgress",
    "ReplyStream",
    "RequestFields",
    "Snapshot",
    "Text",
    "ToolCall",
    "Unavailable",
    "UsageUpdate",
]
