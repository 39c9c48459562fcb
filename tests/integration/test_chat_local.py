"""`make chat-local`: llama.cpp, Parley with its page, and a chat in the terminal, which end together."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator

import pytest

from tests import watchdog
from tests.llama import require_llama_cpp
from tests.processes import clean_environment
from tests.tools import ROOT
from tests.web import Browser

LIMIT_S = 150.0

pytestmark = [pytest.mark.xdist_group("llama-cpp"), pytest.mark.timeout(300)]


@contextlib.asynccontextmanager
async def chat_local(folder) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command on free ports, in a process group of its own, as a shell starts it."""
    require_llama_cpp()
    ports = ("--port=0", "--page-port=0")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tools.chat_local", f"--folder={folder}", *ports),
        cwd=ROOT,
        env=clean_environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    watchdog.watch(process.pid)
    try:
        yield process
    finally:
        if process.returncode is None:
            watchdog.kill_tree(process.pid)
            await process.wait()
        watchdog.forget(process.pid)


async def read_until(process: asyncio.subprocess.Process, pattern: str) -> re.Match[str]:
    """Read the output until it has the pattern."""
    output = ""
    assert process.stdout is not None
    async with asyncio.timeout(LIMIT_S):
        while (found := re.search(pattern, output)) is None:
            piece = await process.stdout.read(4096)
            assert piece, f"ended without {pattern!r}: {output}"
            output += piece.decode()
    return found


async def test_a_real_model_answers_in_the_terminal_and_on_the_page(tmp_path) -> None:
    async with chat_local(tmp_path) as process:
        assert process.stdin is not None
        page = (await read_until(process, r"Page:  (http://\S+/)(?s:.*)/help"))[1]
        parts = watchdog.children(process.pid)
        assert len(parts) == 3, "llama.cpp, parley serve, parley chat"
        process.stdin.write(b"Hi\n")
        async with Browser(page) as browser, asyncio.timeout(LIMIT_S):
            while not (listed := (await browser.call("GET", "/api/page/conversations")).json()["conversations"]):
                await asyncio.sleep(0.05)
            path = f"/api/page/conversations/{listed[0]['id']}/messages"
            body = {"text": "Count to three.", "model": "smollm2"}
            while (await browser.call("GET", path)).json()["active_reply_id"]:
                await asyncio.sleep(0.05)
            events = await browser.events("POST", path, body, timeout=LIMIT_S)
        assert events[-1]["type"] == "finished", events[-1]
        assert events[-1]["output_tokens"] > 0
        os.killpg(process.pid, signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 30) == 0
        assert [each for each in parts if watchdog.state(each) not in ("", "Z")] == []
