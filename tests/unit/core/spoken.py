"""A running reply, and what writes it: for tests of several replicas."""

from __future__ import annotations

from typing import Any

from parley_server.core.events import Chunk
from parley_server.core.replies.generate import Generation
from parley_server.core.replies.log import Reader

from tests.fakes import Typist, World


class Spoken:
    """A running reply of a world, which is told what to say."""

    def __init__(self, typist: Typist, generation: Generation) -> None:
        self.say = typist.say
        self.generation = generation
        self.log = generation.log
        self.id = generation.log.reply.id
        self.conversation_id = generation.log.reply.conversation_id


async def spoken(world: World, *words: str, **fields: Any) -> Spoken:
    """A reply that has said these words."""
    typist = Typist()
    made = Spoken(typist, await world.begin(typist.act, **fields))
    await made.say(*words)
    return made


def drained(reader: Reader) -> list[Chunk]:
    """All that a reader can have now."""
    chunks: list[Chunk] = []
    while reader.ready:
        chunks += reader.take()
    return chunks


async def to_the_end(reader: Reader) -> list[Chunk]:
    """All that a reader is given, up to the terminal chunk."""
    chunks: list[Chunk] = []
    while not reader.done:
        await reader.wait()
        chunks += reader.take()
    return chunks
