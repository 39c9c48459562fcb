"""Measures the CPU to read, build and encode the prompt of a conversation of 10,000 messages and over a million tokens.

`python -m benchmarks.prompts`. In one process and without a provider, because only Parley's own work is measured.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from parley_server.core.clock import SystemClock
from parley_server.core.context.estimate import Estimator
from parley_server.core.context.prompts import TurnPrompts
from parley_server.core.ids import new_id
from parley_server.core.model import Conversation, Identity, Message, Role, TextPart
from parley_server.core.replies.plan import new_conversation, store_messages
from parley_server.core.requests import ReplyPayload, ReplyRequest
from parley_server.core.store_types import NewConversation, Position, PromptSource
from parley_server.providers.registry import Registry
from parley_server.settings import ModelSettings, OpenAISettings
from parley_server.store import SqlStore, open_store
from parley_server.store.migrate import migrate
from parley_server.telemetry.observer import Telemetry

MESSAGES = 10_000
TEXT = "The quick brown fox jumps over the lazy dog. " * 10
RUNS = 7
CALLER = Identity(tenant="bench")


def main() -> None:
    """Print the median CPU time of each step in milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> None:
    url = f"sqlite+aiosqlite:///{folder / 'parley.db'}"
    migrate(url)
    store = open_store(url)
    await store.start()
    try:
        conversation_id = await _fill(store)
        source, began = None, time.process_time()
        for _ in range(RUNS):
            source = await store.read_turn(CALLER, conversation_id, Position(), has_input=True, new_turn=True)
        read_ms = (time.process_time() - began) * 1000 / RUNS
        assert source is not None
        _report(source, read_ms)
    finally:
        await store.close()


def _report(source: PromptSource, read_ms: float) -> None:
    models = {"long": ModelSettings(provider="up", name="any")}
    providers = {"up": OpenAISettings(base_url="http://localhost/v1")}
    registry = Registry(providers, models, "long", clock=SystemClock())
    question = (Message(id="new", role=Role.USER, parts=(TextPart(text="And now?"),)),)
    request = ReplyRequest(identity=CALLER, payload=ReplyPayload(messages=question))
    estimator, model = Estimator(Telemetry()), registry.model("long")
    prompt = TurnPrompts(request, source, question, estimator).of(model)
    print(f"{len(prompt.messages)} messages, {prompt.text_bytes} bytes, {prompt.estimated_tokens} tokens by estimate")
    print(f"read from SQLite     {read_ms:8.1f} ms of CPU")
    print(f"build                {_cpu_ms(lambda: TurnPrompts(request, source, question, estimator).of(model)):8.1f}")
    print(f"body of the request  {_cpu_ms(lambda: registry.body_of(prompt)):8.1f}")


def _cpu_ms(work: Callable[[], object]) -> float:
    spent = []
    for _ in range(RUNS):
        began = time.process_time()
        work()
        spent.append((time.process_time() - began) * 1000)
    return statistics.median(spent)


async def _fill(store: SqlStore) -> str:
    now_us = SystemClock().now_us()
    conversation = new_conversation(Conversation(id=new_id(now_us)), CALLER, now_us)
    roles = (Role.USER, Role.ASSISTANT)
    given = tuple(Message(role=roles[at % 2], parts=(TextPart(text=TEXT),)) for at in range(MESSAGES))
    messages, _, _ = store_messages(given, "", now_us)
    await store.create_conversation(
        NewConversation(identity=CALLER, conversation=conversation, messages=messages, now_us=now_us)
    )
    return conversation.id


if __name__ == "__main__":
    main()
