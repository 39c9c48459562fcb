"""Adapters for Starlette and FastAPI: replies as server-sent events, refusals as HTTP statuses, routes of a chat page.

`pip install parley-client[asgi]` installs Starlette and uvicorn, which this package needs in addition to `parley`.
"""

from parley.asgi._conversations import ensure_conversation, stop_reply, title_of
from parley.asgi._files import page_files
from parley.asgi._limit import LimitBody
from parley.asgi._openapi import openapi_events, openapi_responses
from parley.asgi._page import PageConfig, page_routes
from parley.asgi._refusal import Refusal, exception_handlers, refusal
from parley.asgi._response import ReplyResponse, TextReplaced, end_streams, read_to_end
from parley.asgi._serve import serve

__all__ = [
    "LimitBody",
    "PageConfig",
    "Refusal",
    "ReplyResponse",
    "TextReplaced",
    "end_streams",
    "ensure_conversation",
    "exception_handlers",
    "openapi_events",
    "openapi_responses",
    "page_files",
    "page_routes",
    "read_to_end",
    "refusal",
    "serve",
    "stop_reply",
    "title_of",
]
