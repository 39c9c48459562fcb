"""The wire of each product for sending a question: one function each, and what its events mean."""

from __future__ import annotations

import base64
import contextlib
import random
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.products.browsing import PAGE, Browser, Events, new_key

PIXEL = base64.b64encode(
    bytes.fromhex(
        "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
        "1f15c4890000000d49444154789c6360f8cf500f0003860180e4f8a7b00000000049454e44ae426082"
    )
).decode()
"""A PNG of one pixel."""


@dataclass(frozen=True)
class Wire:
    """How one product takes a question and streams the answer.

    name: the value of `wire` in its page config. text: the events with text, and the field that has it; `whole` if
    it has all text so far. ends: the type of the last event of an answer. errors: that of a failed one.
    """

    name: str
    text: str
    content: str
    done: str
    cancelled: str
    failed: str
    whole: bool = False
    images: bool = False
    numbers: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)

    def new_conversation(self) -> str:
        """An id as the page makes it."""
        return str(random.randrange(1, 2**53)) if self.numbers else str(uuid.uuid4())

    def request(self, browser: Browser, conversation: str, text: str) -> tuple[str, dict[str, Any]]:
        """The path and the body of a question."""
        return REQUESTS[self.name](browser, conversation, text)

    def send(
        self, browser: Browser, conversation: str, text: str = "Hi", *, key: str = ""
    ) -> contextlib.AbstractAsyncContextManager[Events]:
        """Send a question; the answer is a stream or a refusal."""
        path, body = self.request(browser, conversation, text)
        headers = {"Idempotency-Key": key or new_key(), **self.headers}
        return browser.events("POST", path, json=body, headers=headers)

    def answer(self, events: list[dict[str, Any]]) -> str:
        """The text of an answer, as a page shows it."""
        shown = ""
        for event in events:
            if event["type"] == self.text:
                shown = event[self.content] if self.whole else shown + event[self.content]
            elif event["type"] == "snapshot":
                shown = event["text"]
        return shown

    async def ask(self, browser: Browser, conversation: str, text: str = "Hi", *, key: str = "") -> str:
        """Send a question and read the answer to its end; returns its text."""
        async with self.send(browser, conversation, text, key=key) as events:
            assert events.status == 200, (events.status, events.body)
            received = await events.rest()
        assert received[-1]["type"] == self.done, received
        return self.answer(received)


def _tasks(browser: Browser, conversation: str, text: str) -> tuple[str, dict[str, Any]]:
    return f"/api/conversations/{conversation}/messages/stream", {"content": text}


def _sessions(browser: Browser, conversation: str, text: str) -> tuple[str, dict[str, Any]]:
    return f"/api/chat-sessions/{conversation}/send-message", {"content": text, "stream": True}


def _image(browser: Browser, conversation: str, text: str) -> tuple[str, dict[str, Any]]:
    body = {"base64_image": PIXEL, "prompt": text, "subject": "Mathematics", "session_id": conversation}
    return "/api/ai/chat-image-stream", body | {"student_id": browser.user}


def _chunks(browser: Browser, conversation: str, text: str) -> tuple[str, dict[str, Any]]:
    return "/api/ai/chat/stream", {"conversationId": conversation, "message": text}


def _negotiate(browser: Browser, conversation: str, text: str) -> tuple[str, dict[str, Any]]:
    return "/api/v1/messages", {"message": text, "conversation_id": conversation}


def _page(browser: Browser, conversation: str, text: str) -> tuple[str, dict[str, Any]]:
    return f"{PAGE}/conversations/{conversation}/messages", {"text": text, "images": []}


REQUESTS = {
    "tasks": _tasks,
    "sessions": _sessions,
    "image": _image,
    "chunks": _chunks,
    "negotiate": _negotiate,
    "page": _page,
}
EVENT_STREAM = {"Accept": "text/event-stream"}
WIRES = {
    "spring-boot": Wire("tasks", "text", "text", "finished", "finished", "failed"),
    "express": Wire("chunks", "chunk", "content", "done", "done", "error"),
    "vision": Wire("image", "content", "content", "end", "end", "error", whole=True, images=True),
    "roleplay": Wire("sessions", "content", "data", "done", "cancelled", "error", numbers=True),
    "negotiate": Wire("negotiate", "token", "content", "complete", "complete", "error", headers=EVENT_STREAM),
    "ui": Wire("page", "text", "text", "finished", "finished", "failed", images=True),
}
"""By the name of the product."""
