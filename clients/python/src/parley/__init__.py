"""Python client of Parley.

The public API is this module and `parley.errors`; `parley.v1` has the generated messages and stubs.
"""

from parley._admin import Admin
from parley._backoff import Backoff
from parley._client import Client
from parley._conversations import Conversations
from parley._fields import RequestFields
from parley._stream import ReplyStream
from parley._sync import SyncClient
from parley._sync_resources import SyncAdmin, SyncConversations
from parley._sync_stream import SyncReplyStream
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
    "Admin",
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
    "SyncAdmin",
    "SyncClient",
    "SyncConversations",
    "SyncReplyStream",
    "Text",
    "ToolCall",
    "Unavailable",
    "UsageUpdate",
]
