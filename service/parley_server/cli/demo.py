"""`make demo`: starts a real server on a free local port and shows it from a client. Needs no API key and no network.

Each step checks what it shows; the exit status is 0 only if all checks passed.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from contextlib import aclosing
from pathlib import Path

import parley
import uvloop

from parley_server.app import App
from parley_server.cli.options import PAGE_HOST, PAGE_PORT
from parley_server.settings import load_settings
from parley_server.telemetry.logs import configure_logging

QUESTION = "What happens to my answer when the connection breaks?"
CUT_AFTER = 8  # chunks of text
LIMIT_S = 60.0


async def main() -> int:
    """Start a server, run the steps against it, and return the exit status."""
    with tempfile.TemporaryDirectory(prefix="parley-demo-") as folder:
        environment = {
            "PARLEY_LISTEN": "127.0.0.1:0",
            "PARLEY_METRICS_LISTEN": "",  # its default port may be in use by a server that runs here
            "PARLEY_DATABASE_URL": f"sqlite+aiosqlite:///{Path(folder, 'demo.db')}",
        }
        settings = load_settings(environment)
        configure_logging("warning", "text")
        app = App(settings)
        await app.start()
        say(f"Parley serves on 127.0.0.1:{app.port}, with a scripted model and an SQLite file.")
        try:
            async with asyncio.timeout(LIMIT_S):
                await show(f"127.0.0.1:{app.port}")
        finally:
            await app.stop(grace_s=0.0)
    say(
        "\nThe demo is complete. Next, a page to chat on: `.venv/bin/parley serve --ui` shows it at "
        f"http://{PAGE_HOST}:{PAGE_PORT}/"
    )
    return 0


async def show(address: str) -> None:
    """Run the steps against the server at `address`."""
    async with parley.Client(address) as first, parley.Client(address) as second:
        say("\n1. StreamReply: the answer is shown while it is written. A second reader joins in the middle.")
        say(f"   > {QUESTION}")
        reply_id, text = await stream_with_second_reader(first, second)
        say("\n2. The connection is cut within a sentence; ResumeReply continues after the last sequence.")
        await cut_and_resume(address)
        say("\n3. Cancel: the provider's call is closed, and the text so far is kept.")
        await cancel(first)
        stored = await first.get_reply(reply_id)
        check(stored.message.parts[0].text == text, "   and what is stored is what was streamed")


async def stream_with_second_reader(first: parley.Client, second: parley.Client) -> tuple[str, str]:
    """Stream an answer to two readers. Returns the reply's id and text."""
    # The second reader starts after the first text, in the middle of the answer.
    watching: asyncio.Task[str] | None = None
    say("   < ", end="")
    stream = first.stream_reply(QUESTION)
    async for event in stream:
        if isinstance(event, parley.Text):
            say(event.text, end="")
            watching = watching or asyncio.create_task(read_all(second, stream.reply_id))
    assert watching is not None
    other = await watching
    check(other == stream.text, f"\n   the second reader has the same {len(other)} characters")
    return stream.reply_id, stream.text


async def read_all(client: parley.Client, reply_id: str) -> str:
    """Read a reply from its start to its end; returns the text."""
    stream = client.resume(reply_id)
    async for _ in stream:
        pass
    return stream.text


async def cut_and_resume(address: str) -> None:
    """Close the channel in the middle of a reply, then resume at the cursor on another channel."""
    before, pieces, cursor, reply_id = "", 0, 0, ""
    say("   < ", end="")
    async with parley.Client(address) as client, aclosing(client.stream_reply(QUESTION)) as stream:
        async for event in stream:
            if isinstance(event, parley.Text):
                say(event.text, end="")
                before, pieces = before + event.text, pieces + 1
            if pieces == CUT_AFTER:
                cursor, reply_id = stream.sequence, stream.reply_id
                break
    say(f"\n   -- cut at sequence {cursor}; the reply continues without a reader --")
    await asyncio.sleep(0.3)  # some text is written meanwhile, which the resumed stream then delivers
    async with parley.Client(address) as client:
        say("   < ", end="")
        rest = client.resume(reply_id, after_sequence=cursor)
        async for event in rest:
            if isinstance(event, parley.Text):
                say(event.text, end="")
        whole = await client.get_reply(reply_id)
    check(before + rest.text == whole.message.parts[0].text, "\n   both halves together are the stored answer")


async def cancel(client: parley.Client) -> None:
    """Cancel a reply, then start another one in the same conversation."""
    say("   < ", end="")
    pieces = 0
    stream = client.stream_reply("Tell me more, please.")
    async for event in stream:
        if isinstance(event, parley.Text):
            say(event.text, end="")
            pieces += 1
            if pieces == CUT_AFTER // 2:
                await stream.cancel("user pressed stop")
        if isinstance(event, parley.Finished):
            say(f"\n   finished: {event.reason} ({event.cancel_reason})")
    reply = await client.get_reply(stream.reply_id)
    check(reply.message.partial and reply.message.parts[0].text == stream.text, "   the partial text is stored")
    again = await client.create_reply("Thank you!", conversation_id=stream.conversation_id)
    check(bool(again.message.parts), "   and the conversation accepts the next message at once")


def say(text: str, *, end: str = "\n") -> None:
    """Print at once."""
    sys.stdout.write(text + end)
    sys.stdout.flush()


def check(right: bool, what: str) -> None:
    """Print that a check passed, or end the demo with an error."""
    if not right:
        raise SystemExit(f"{what}: NOT SO")
    say(f"{what}: ok")


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
