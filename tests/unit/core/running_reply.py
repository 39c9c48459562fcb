"""A running reply, and what writes it: for tests of several replicas."""

from __future__ import annotations

from typing import Any

from parley_server.core.events import Chunk
from parley_server.core.replies.generate import Generation
from parley_server.core.replies.log import Reader

from tests.fakes import CoreHarness, ManualAnswer


class RunningReply:
    """A running reply of a harness, which is told what to say."""

    def __init__(self, answer: ManualAnswer, generation: Generation) -> None:
        self.write = answer.write
        self.generation = generation
        self.log = generation.log
        self.id = generation.log.reply.id
        self.conversation_id = generation.log.reply.conversation_id


async def start_reply(harness: CoreHarness, *words: str, **fields: Any) -> RunningReply:
    """A reply that has said these words."""
    answer = ManualAnswer()
    made = RunningReply(answer, await harness.begin(answer.generate, **fields))
    await made.write(*words)
    return made


def read_available(reader: Reader) -> list[Chunk]:
    """All that a reader can have now."""
    chunks: list[Chunk] = []
    while reader.ready:
        chunks += reader.take()
    return chunks


async def read_to_end(reader: Reader) -> list[Chunk]:
    """All that a reader is given, up to the terminal chunk."""
    chunks: list[Chunk] = []
    while not reader.done:
        await reader.wait()
        chunks += reader.take()
    return chunks
