"""Compares the CPU per token of the readers of all dialects, in this process and without a network.

python -m benchmarks.dialects    exit status 1 if a reader needs more than 1.3 times the CPU of chat completions

Each token is one event in one read, as most vendors send it. The rounds of all dialects alternate, so that a slow or
busy machine slows all of them; the smallest time of each counts.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

from parley_server.core.model import Usage
from parley_server.core.ports import Sink
from parley_server.providers.anthropic.reader import MessageReader
from parley_server.providers.endpoint import Reader
from parley_server.providers.gemini.reader import GeminiReader
from parley_server.providers.openai.reader import ChunkReader
from parley_server.providers.openai.responses_reader import ResponsesReader

from benchmarks.report import number, table

TOKENS = 2000
ROUNDS = 25
LIMIT = 1.3
REFERENCE = "chat completions"


class CountingSink:
    """Counts the characters of the answer, so that each reader must deliver all of it."""

    def __init__(self) -> None:
        self.characters = 0

    def text(self, text: str) -> None:
        self.characters += len(text)

    def reasoning(self, text: str, signature: bytes = b"") -> None:
        pass

    def tool_call(self, index: int, call_id: str, name: str, arguments: str) -> None:
        pass

    def usage(self, usage: Usage) -> None:
        pass

    def keep(self, origin: str, item: str) -> None:
        pass

    def flush(self) -> None:
        pass


def _event(value: object, name: str = "") -> bytes:
    data = f"data: {json.dumps(value, separators=(',', ':'))}\n\n"
    return (f"event: {name}\n{data}" if name else data).encode()


def _chat(word: str) -> bytes:
    choice = {"index": 0, "delta": {"content": word}, "logprobs": None, "finish_reason": None}
    frame = {"id": "chatcmpl-CPZ8zTZ0E1oqDTQvKLr1Qd2W", "object": "chat.completion.chunk", "created": 1760000000}
    model = {"model": "gpt-5.6-luna", "service_tier": "default", "system_fingerprint": None}
    return _event(frame | model | {"choices": [choice], "usage": None, "obfuscation": "aB3dE6gH9j"})


def _responses(word: str) -> bytes:
    kind = "response.output_text.delta"
    place = {"sequence_number": 7, "item_id": "msg_0bf3a0c2e0a1f1a90068e7d4c1f8a08193", "output_index": 0}
    delta = {"content_index": 0, "delta": word, "logprobs": [], "obfuscation": "aB3dE6gH9j"}
    return _event({"type": kind} | place | delta, kind)


def _messages(word: str) -> bytes:
    kind = "content_block_delta"
    return _event({"type": kind, "index": 0, "delta": {"type": "text_delta", "text": word}}, kind)


def _gemini(word: str) -> bytes:
    candidate = {"content": {"parts": [{"text": word}], "role": "model"}, "index": 0}
    counts = {"promptTokenCount": 29, "candidatesTokenCount": 10, "totalTokenCount": 241, "thoughtsTokenCount": 202}
    details = {"promptTokensDetails": [{"modality": "TEXT", "tokenCount": 29}]}
    names = {"modelVersion": "gemini-3.8-flash", "responseId": "QUVVadTSNJ6_qtsPvN7J8Q0"}
    event = _event({"candidates": [candidate], "usageMetadata": counts | details, **names})
    return event.replace(b"\n", b"\r\n")


def _chat_reader(sink: Sink) -> Reader:
    return ChunkReader("acme", sink, on_finish=lambda _: None, on_done=lambda: None)


def _responses_reader(sink: Sink) -> Reader:
    return ResponsesReader("acme", sink, on_done=lambda: None)


def _messages_reader(sink: Sink) -> Reader:
    reader = MessageReader("acme", sink, on_finish=lambda _: None, on_done=lambda: None)
    start = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    reader.feed(_event(start, start["type"]))
    return reader


def _gemini_reader(sink: Sink) -> Reader:
    return GeminiReader("acme", sink, on_finish=lambda _: None, on_done=lambda: None, keeps=True)


DIALECTS: dict[str, tuple[Callable[[Sink], Reader], Callable[[str], bytes]]] = {
    REFERENCE: (_chat_reader, _chat),
    "Responses API": (_responses_reader, _responses),
    "Messages API": (_messages_reader, _messages),
    "Gemini API": (_gemini_reader, _gemini),
}


def us_per_token(read: Callable[[Sink], Reader], reads: list[bytes]) -> float:
    """CPU time of one answer, in microseconds per token."""
    sink = CountingSink()
    reader = read(sink)
    feed = reader.feed
    started_s = time.process_time()
    for data in reads:
        feed(data)
    used_s = time.process_time() - started_s
    assert sink.characters == 6 * len(reads), "the reader has lost text"
    return used_s / len(reads) * 1e6


def main() -> int:
    """Measure, print a table, and compare with the limit."""
    streams = {name: [write(f"word{n % 10} ") for n in range(TOKENS)] for name, (_, write) in DIALECTS.items()}
    costs = {name: min(us_per_token(DIALECTS[name][0], streams[name]) for _ in range(ROUNDS)) for name in DIALECTS}
    ratios = {name: cost / costs[REFERENCE] for name, cost in costs.items()}
    rows = [[name, number(costs[name]), number(ratios[name])] for name in DIALECTS]
    print(table(["reader", "CPU per token, us", "ratio"], rows))
    return int(max(ratios.values()) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
