"""A vendor's server as a process: answers at a pace, and appends its requests and answers to a file.

The file remains after a kill, and so has the answers that the killed process had begun. After SIGUSR1 the server
refuses new requests as overloaded, after SIGUSR2 it accepts them again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.siege import words
from tests.upstream import Pause, Request, Script, Step, Upstream, Wait, done, finish, refusal, role, text, usage

DIALECTS = ("chat", "messages")
PROMPT_TOKENS = 20


class Noted(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the file. `what`: "asked", "began" (before the first token), "whole", "left" (the client closed
    the call before the end), or "refused"."""

    attempt: str
    what: str
    process: int
    request_id: str = ""
    tokens: int = 0


class _Note(asyncio.Event):
    """A step that calls a function and does not wait."""

    def __init__(self, note: Callable[[], None]) -> None:
        super().__init__()
        self._note = note

    async def wait(self) -> bool:
        self._note()
        return True


class Vendor(Upstream):
    """The server of one vendor. `dialect`: "chat" (OpenAI's chat completions) or "messages" (Anthropic's)."""

    def __init__(self, *, port: int, dialect: str, pace: float, counts: Path) -> None:
        super().__init__(port=port)
        self.full = False
        self._steps_of = {"chat": _chat, "messages": _messages}[dialect]
        self._dialect = dialect
        self._pause = Pause(1 / pace)
        self._counts = os.open(counts, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._running: dict[int, str] = {}
        self.reply_with(self._answer)

    def _answer(self, request: Request) -> Script:
        self.requests.clear()
        self.aborts.clear()
        prompt = words.read_prompt(request.body.decode())
        if self.full or prompt is None:
            self._note("", "refused", request_id=prompt.request_id if prompt else "")
            return _full(self._dialect) if self.full else refusal(400)
        attempt = secrets.token_hex(5)
        self._running[id(request)] = attempt
        self._note(attempt, "asked", request_id=prompt.request_id, tokens=prompt.tokens)
        steps: list[Step] = [self._pause, Wait(_Note(lambda: self._note(attempt, "began")))]
        for number in range(prompt.tokens):
            steps += [_Token(words.token(attempt, number)), self._pause]

        def end() -> None:
            self._running.pop(id(request), None)
            self._note(attempt, "whole")

        return Script([*self._steps_of(steps, prompt.tokens), Wait(_Note(end))])

    def _note(self, attempt: str, what: str, **more: Any) -> None:
        line = Noted(attempt=attempt, what=what, process=os.getpid(), **more)
        os.write(self._counts, msgspec.json.encode(line) + b"\n")

    def _note_abort(self, request: Request | None) -> None:
        super()._note_abort(request)
        if (attempt := self._running.pop(id(request), None)) is not None:
            self._note(attempt, "left")


class _Token(str):
    """A token. The dialect encodes it; it leaves the other steps unchanged."""

    __slots__ = ()


def read_counts(path: Path) -> list[Noted]:
    """The lines of a file, in their order; none if the server has had no request."""
    if not path.exists():
        return []
    return [msgspec.json.decode(line, type=Noted) for line in path.read_bytes().splitlines()]


def _chat(steps: list[Any], tokens: int) -> list[Step]:
    encoded = [text(step) if isinstance(step, _Token) else step for step in steps]
    return [role(), *encoded, finish(), usage(PROMPT_TOKENS, tokens), done()]


def _messages(steps: list[Any], tokens: int) -> list[Step]:
    counts = {"input_tokens": PROMPT_TOKENS, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "birch-1", "content": []}
    start = message | {"stop_reason": None, "stop_sequence": None, "usage": counts | {"output_tokens": 1}}
    block = {"type": "text", "text": ""}
    encoded = [
        _named("content_block_delta", index=0, delta={"type": "text_delta", "text": step})
        if isinstance(step, _Token)
        else step
        for step in steps
    ]
    return [
        _named("message_start", message=start),
        _named("content_block_start", index=0, content_block=block),
        *encoded,
        _named("content_block_stop", index=0),
        _named(
            "message_delta",
            delta={"stop_reason": "end_turn", "stop_sequence": None},
            usage=counts | {"output_tokens": tokens},
        ),
        _named("message_stop"),
    ]


def _named(kind: str, **fields: Any) -> bytes:
    data = json.dumps({"type": kind, **fields}, separators=(",", ":"))
    return f"event: {kind}\ndata: {data}\n\n".encode()


def _full(dialect: str) -> Script:
    if dialect == "chat":
        return refusal(503, {"error": {"message": "overloaded", "type": "server_error", "code": None}})
    return refusal(529, {"type": "error", "error": {"type": "overloaded_error", "message": "overloaded"}})


async def serve(vendor: Vendor) -> None:
    """Serve until the process is killed."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, setattr, vendor, "full", True)
    loop.add_signal_handler(signal.SIGUSR2, setattr, vendor, "full", False)
    async with vendor:
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dialect", choices=DIALECTS, required=True)
    parser.add_argument("--pace", type=float, required=True, help="tokens per second")
    parser.add_argument("--counts", type=Path, required=True, help="the file that it appends to")
    options = parser.parse_args()
    asyncio.run(serve(Vendor(**vars(options))))


if __name__ == "__main__":
    main()
