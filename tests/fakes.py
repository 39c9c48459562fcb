"""Values and small parts that tests of the core share. Whatever the product ships is used as it is."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from hypothesis import strategies as st
from parley_server.core.events import (
    Chunk,
    Entry,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    UsageUpdate,
)
from parley_server.core.model import FinishReason, Identity, Reply, ReplyError, State, Usage
from parley_server.errors import Reason

from tests.clock import START_US

ALICE = Identity(tenant="shop", end_user="alice")


def reply(reply_id: str = "reply-1", **changes: object) -> Reply:
    """A running reply."""
    given = Reply(
        id=reply_id,
        tenant="shop",
        end_user="alice",
        conversation_id="conversation-1",
        request_id="request-1",
        message_id="message-2",
        parent_message_id="message-1",
        model="fast",
        provider="scripted",
        create_time_us=START_US,
    )
    return msgspec.structs.replace(given, **changes)


def ended(running: Reply, **changes: object) -> Reply:
    """The same reply, as stored when it has ended: completed, if `changes` do not say otherwise."""
    state = changes.pop("state", State.COMPLETED)
    end: dict[str, object] = {"state": state, "usage": Usage(prompt_tokens=3, completion_tokens=5)}
    if state is State.FAILED:
        end["error"] = ReplyError(reason=Reason.OWNER_LOST, message="gone", retryable=True)
    else:
        end["finish_reason"] = FinishReason.STOP if state is State.COMPLETED else FinishReason.CANCELLED
    return msgspec.structs.replace(running, **(end | changes))


def texts_of(chunks: Iterable[Chunk]) -> str:
    """The text that chunks add up to."""
    return "".join(chunk.entry.text for chunk in chunks if isinstance(chunk.entry, TextDelta))


def entries() -> st.SearchStrategy[Entry]:
    """Entries of every kind that a provider can bring about."""
    words = st.text(st.characters(codec="utf-8"), max_size=4)
    counts = st.integers(0, 1000)
    return st.one_of(
        st.builds(TextDelta, words),
        st.builds(ReasoningDelta, words, st.sampled_from([b"", b"", b"signature"])),
        st.builds(ToolCallDelta, st.integers(0, 2), st.just("id"), st.just("name"), words),
        st.builds(ToolCallDelta, st.integers(0, 2), st.just(""), st.just(""), words),
        st.builds(UsageUpdate, st.builds(Usage, prompt_tokens=counts, completion_tokens=counts)),
    )
