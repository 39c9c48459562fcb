"""Runs the commands of a document as pasted, and records the requests and answers of grpcurl."""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.processes import ServerProcess, clean_environment
from tests.tools import tool

ADDRESS = "127.0.0.1:50051"
RECORDER = """#!/usr/bin/env bash
# Runs grpcurl, and records its arguments and its output.
set -o pipefail
call=$(mktemp -d "$CALLS/$(date +%s%N).XXXX")
printf '%s\\n' "$@" >"$call/arguments"
"$GRPCURL" "$@" | tee "$call/answer"
"""


@dataclass(frozen=True)
class Called:
    """One run of grpcurl. `method` may be another verb, such as `list`; its answer is then one text."""

    method: str
    request: dict[str, Any]
    answers: list[Any]

    @property
    def text(self) -> str:
        """All text of a stream or a poll."""
        chunks = self.answers[0].get("chunks", []) if self.method == "Chat/PollReply" else self.answers
        return "".join(chunk.get("text", "") for chunk in chunks)


@dataclass(frozen=True)
class Ran:
    """The exit status of commands, their error output, and their calls in order."""

    status: int
    stderr: str
    calls: list[Called]


def blocks(document: str, language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)


async def run(commands: str, server: ServerProcess, folder: Path) -> Ran:
    """Runs commands as if pasted into a shell, up to the first failure, with the address of `server`.

    Without grpcurl the test is skipped; in CI it fails.
    """
    calls = folder / "calls"
    calls.mkdir()
    recorder = folder / "bin" / "grpcurl"
    recorder.parent.mkdir()
    recorder.write_text(RECORDER)
    recorder.chmod(recorder.stat().st_mode | stat.S_IXUSR)
    environment = clean_environment(CALLS=str(calls), GRPCURL=tool("grpcurl"), no_proxy="127.0.0.1")
    environment["PATH"] = os.pathsep.join([str(recorder.parent), environment["PATH"]])
    done = await asyncio.to_thread(  # so that the loop can read the lines of the server
        subprocess.run,
        ["bash", "-c", "set -eo pipefail\n" + commands.replace(ADDRESS, server.address)],
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
    )
    return Ran(done.returncode, done.stderr, [_called(call) for call in sorted(calls.iterdir())])


def _called(folder: Path) -> Called:
    arguments = (folder / "arguments").read_text().splitlines()
    request = json.loads(arguments[arguments.index("-d") + 1]) if "-d" in arguments else {}
    method, answer = arguments[-1].removeprefix("parley.v1."), (folder / "answer").read_text()
    return Called(method, request, list(_messages(answer)) if "/" in method else [answer])


def _messages(text: str) -> Iterator[dict[str, Any]]:
    decoder = json.JSONDecoder()
    while text := text.strip():
        message, end = decoder.raw_decode(text)
        yield message
        text = text[end:]
