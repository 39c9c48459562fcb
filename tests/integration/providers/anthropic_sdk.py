"""Anthropic's own client: what it sends, and what it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.recordings.plain import Outcome
from tests.sdks import anthropic_client

if TYPE_CHECKING:
    from anthropic.types import Message  # takes a second


async def read_by_sdk(url: str) -> Message:
    """The message that the client reads from the server at this URL."""
    async with anthropic_client(url) as client:
        messages: Any = [{"role": "user", "content": "Hi"}]
        async with client.messages.stream(model="acme-1", max_tokens=9, messages=messages) as stream:
            return await stream.get_final_message()


def outcome_of(message: Message, end: str) -> Outcome:
    """What the message says; `end` is the finish reason that its stop reason means."""
    blocks = message.content
    usage = message.usage
    cached, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
    details = usage.output_tokens_details
    counts = (
        usage.input_tokens + cached + written,
        cached,
        usage.output_tokens,
        details.thinking_tokens if details else 0,
    )
    return Outcome(
        "".join(block.text for block in blocks if block.type == "text"),
        "".join(block.thinking for block in blocks if block.type == "thinking"),
        tuple((block.id, block.name, block.input) for block in blocks if block.type == "tool_use"),  # type: ignore[misc]
        end=end,
        word=message.stop_reason or "",
        counts=counts,
    )
