"""Running replies whose text a test writes, and readers that collect it."""

from __future__ import annotations

from typing import Any

from parley_server.core.events import Chunk
from parley_server.core.replies.generate import Generation
from parley_server.core.replies.log import Reader

from tests.fakes import CoreHarness, ManualAnswer


class RunningReply:
    """A running reply whose text the test writes; see `ManualAnswer.write`."""

    def __init__(self, answer: ManualAnswer, generation: Generation) -> None:
        self.write = answer.write
        self.generation = generation
        self.log = generation.log
        self.id = generation.log.reply.id
        self.conversation_id = generation.log.reply.conversation_id


async def start_reply(harness: CoreHarness, *words: str, **fields: Any) -> RunningReply:
    """Start a reply and write these words."""
    answer = ManualAnswer()
    running = RunningReply(answer, await harness.begin(answer.generate, **fields))
    await running.write(*words)
    return running


def read_available(reader: Reader) -> list[Chunk]:
    """The chunks that a reader can get without waiting."""
    chunks: list[Chunk] = []
    while reader.ready:
        chunks += reader.take()
    return chunks


async def read_to_end(reader: Reader) -> list[Chunk]:
    """The chunks up to the terminal chunk; waits for it."""
    chunks: list[Chunk] = []
    while not reader.done:
        await reader.wait()
        chunks += reader.take()
    return chunks
