"""The result of each unusual stream does not depend on how its bytes are split. `docs/upstreams.md` lists them."""

import asyncio
import itertools
import random
import re
from pathlib import Path

import pytest
from parley_server.errors import ParleyError
from parley_server.providers.http.exchange import Exchange, Head
from parley_server.providers.openai.reader import ChunkReader

from tests.integration.providers.recording import RecordingSink
from tests.shapes import SHAPES

ROW = re.compile(r"^\| (.+?) \| .+ \| `(\w+)` \|$", re.MULTILINE)


class Reading:
    """A reader and the outcome of a body."""

    def __init__(self, shape):
        self.sink = RecordingSink()
        self.notices = []
        self.reader = ChunkReader(
            "acme",
            self.sink,
            on_finish=lambda _: None,
            on_done=lambda: self.exchange.stop(),
            notice=self.notices.append,
            done_is_finish=shape.done_is_finish,
            document=shape.content_type == "application/json",
        )
        self.exchange = Exchange(abort=lambda: None, resume=lambda: None)
        self.exchange.head.set_result(Head(200, b"OK", headers=[], http_version="HTTP/1.1", until_close=False))

    async def over_an_exchange(self, pieces, *, first):
        """Deliver `first` pieces, and the end if these are all, before `push_to` is called."""
        for piece in pieces[:first]:
            self.exchange.deliver(piece)
        if first == len(pieces):
            self.exchange.complete()
        reading = asyncio.ensure_future(self.exchange.push_to(self.reader.feed))
        await asyncio.sleep(0)
        for piece in pieces[first:]:
            self.exchange.deliver(piece)
        self.exchange.complete()
        try:
            await reading
            finish = self.reader.end()
        except ParleyError as error:
            self.reader.cut()
            return self.outcome(error.reason, None)
        return self.outcome(finish.reason, finish.provider_reason)

    def outcome(self, end, word):
        calls = {}
        for kind, *pushed in self.sink.events:
            if kind == "tool_call":
                index, call_id, name, arguments = pushed
                known = calls.setdefault(index, (call_id, name, ""))
                calls[index] = (known[0], known[1], known[2] + arguments)
        counted = self.sink.counted[-1] if self.sink.counted else None
        assert list(calls) == list(range(len(calls)))
        return {
            "text": self.sink.content,
            "reasoning": self.sink.reasoning_content,
            "calls": tuple((name, arguments) for _, name, arguments in calls.values()),
            "ids": tuple(call_id for call_id, _, _ in calls.values()),
            "end": str(end),
            "word": word,
            "counts": counted
            and (
                counted.prompt_tokens,
                counted.cached_prompt_tokens,
                counted.completion_tokens,
                counted.reasoning_tokens,
            ),
            "estimated": counted is not None and counted.estimated,
            "notices": frozenset(self.notices),
        }


def check(shape, outcome):
    assert len(set(outcome["ids"])) == len(outcome["ids"])
    assert "" not in outcome["ids"]
    for field in ("text", "reasoning", "calls", "end", "counts", "estimated", "notices"):
        assert outcome[field] == getattr(shape, field), field
    if shape.ids is not None:
        assert outcome["ids"] == shape.ids
    if shape.word is not None:
        assert outcome["word"] == shape.word


def at(body, places):
    return [body[start:end] for start, end in itertools.pairwise(sorted({0, len(body), *places}))]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
async def test_shapes(shape):
    body = shape.body
    dice = random.Random(shape.name)
    ways = [
        [body],
        at(body, [found.end() for found in re.finditer(rb"\r?\n\r?\n", body)]),
        *[at(body, [dice.randrange(len(body)) for _ in range(20)]) for _ in range(20)],
    ]
    if len(body) <= 16 * 1024:
        ways.append([bytes([byte]) for byte in body])
    for pieces in ways:
        for first in {0, 1, len(pieces)}:
            check(shape, await Reading(shape).over_an_exchange(pieces, first=first))


def test_the_names_of_the_shapes_are_unique():
    assert len({shape.name for shape in SHAPES}) == len(SHAPES)


def test_each_shape_has_a_row_in_the_documentation():
    page = (Path(__file__).parents[3] / "docs" / "upstreams.md").read_text()
    rows = [name for name, test in ROW.findall(page) if test == "test_shapes"]
    assert rows == [shape.name for shape in SHAPES]
