"""The loop of the terminal chat: connects, reads what the user types, and maps the end to an exit status."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import sys
from collections.abc import Awaitable
from typing import Final

from parley import Backoff, Client, ParleyError
from parley.v1 import resources_pb2

from parley_server.cli.chat.input import read_message
from parley_server.cli.chat.reply_view import ReplyOutcome
from parley_server.cli.chat.screen import Screen
from parley_server.cli.chat.session import ChatOptions, Session, unknown_model
from parley_server.cli.reach import KEY_VARIABLE, problem_of

_PROBE_S = 5.0


def chat(options: ChatOptions) -> int:
    """Run the chat until the user leaves, and return the exit status.

    With `options.text`: 0 if the answer is complete, 1 if it failed or no server answers, 130 if Ctrl-C stopped it.
    Call it from the main thread, outside an event loop.
    """
    for stream in (sys.stdout, sys.stderr):
        # A character outside the terminal's encoding must not end the chat.
        getattr(stream, "reconfigure", lambda **_: None)(errors="replace")
    screen = Screen(sys.stdout, sys.stderr)
    try:
        # The loop runs only while a command or a reply does, because `input` blocks. So Ctrl-C at the prompt is an
        # ordinary KeyboardInterrupt, and Ctrl-C during a reply is handled by its view.
        with asyncio.Runner() as runner:
            return _run(runner, options, screen=screen)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of stdout has closed the pipe. Without this, Python's flush at exit would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(runner: asyncio.Runner, options: ChatOptions, *, screen: Screen) -> int:
    key = options.api_key or os.environ.get(KEY_VARIABLE)
    try:
        models = runner.run(_probe(options, key))
        session = runner.run(_start(options, key, screen=screen))
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except ParleyError as error:
        sys.stderr.write(problem_of(error, options.address) + "\n")
        return 1
    try:
        if options.text:
            return _STATUS[runner.run(session.say(options.text))]
        _greet(screen, options, models)
        return _converse(runner, session, screen=screen)
    finally:
        runner.run(session.client.close())


_STATUS: Final = {ReplyOutcome.COMPLETED: 0, ReplyOutcome.FAILED: 1, ReplyOutcome.STOPPED: 130, ReplyOutcome.LEFT: 130}


async def _probe(options: ChatOptions, key: str | None) -> list[resources_pb2.Model]:
    """The server's models. Does not retry, so that an absent server is reported at once.

    Raises ParleyError, and ValueError if the server has no model named `options.model`.
    """
    backoff = Backoff(max_elapsed_s=0.0)
    async with Client(
        options.address, api_key=key, end_user=options.end_user, backoff=backoff, call_timeout_s=_PROBE_S
    ) as client:
        models = await client.models()
    if options.model and (unknown := unknown_model(options.model, models)):
        raise ValueError(unknown)
    return models


async def _start(options: ChatOptions, key: str | None, *, screen: Screen) -> Session:
    client = Client(options.address, api_key=key, end_user=options.end_user)
    return Session(client, screen, options)


def _greet(screen: Screen, options: ChatOptions, models: list[resources_pb2.Model]) -> None:
    model = options.model or next((model.alias for model in models if model.is_default), "")
    screen.note(f"Parley at {options.address}{', model ' + model if model else ''}. /help lists the commands.")


def _converse(runner: asyncio.Runner, session: Session, *, screen: Screen) -> int:
    is_typed = sys.stdin.isatty()
    if is_typed:
        with contextlib.suppress(ImportError):
            # Gives input() editing and history, and makes a paste of several lines one message.
            importlib.import_module("readline").parse_and_bind("set enable-bracketed-paste on")
    if session.conversation_id:
        _attempt(runner, session.open_conversation(session.conversation_id), screen=screen)
    while True:
        try:
            message = read_message(input if is_typed else lambda _: input())
        except (EOFError, KeyboardInterrupt):
            if is_typed:
                screen.line()
            break
        if message == "/quit":
            break
        if message.strip():
            _attempt(runner, session.take(message), screen=screen)
    return 1 if session.failures and not is_typed else 0


def _attempt(runner: asyncio.Runner, doing: Awaitable[object], *, screen: Screen) -> None:
    async def attempt() -> None:
        await doing

    try:
        runner.run(attempt())
    except ParleyError as error:
        screen.error(error)
    except KeyboardInterrupt:
        screen.note("interrupted")
