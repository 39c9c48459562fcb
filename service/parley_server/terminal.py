"""The terminal chat behind `parley chat`: a client of a Parley server like any other, and no part of the engine."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from parley import Backoff, Client, ParleyError, ReplyStream, RequestFields
from parley.errors import DeadlineExceeded, Unavailable
from parley.v1 import resources_pb2

from parley_server.terminal_input import read_message
from parley_server.terminal_screen import Answer, Outcome, Screen

HELP: Final = """\
/list           your conversations, newest first
/open N|ID      continue one of them
/new            start a new conversation
/model [NAME]   use another model from now on; without a name, the conversation's own
/models         the models there are
/retry          answer the last message anew
/help           this text
/script {...}   tell the scripted model what to answer, where that is the model in use
/quit           leave (so do Ctrl-C and Ctrl-D at the prompt)
A line that ends with \\ goes on in the next one; a line of \"""
begins a message of several lines, and another one ends it.
Ctrl-C while an answer is written stops it; what was written is kept."""

_LISTED = 20
_SHOWN_MESSAGES = 6
_TITLE_CHARS = 60
_PROBE_S = 5.0
_NAMED_MODELS = 10


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """What `parley chat` was asked for; what is empty was not. With `text` it prints one answer and ends."""

    text: str = ""
    address: str = "127.0.0.1:50051"
    model: str = ""
    conversation: str = ""
    end_user: str = ""
    # Empty: the environment variable PARLEY_API_KEY, where it is set.
    api_key: str = ""
    reasoning: bool = False


def chat(options: ChatOptions) -> int:
    """Runs the chat until the user leaves, and returns the exit status.

    With a text: 0 when the answer is complete, 1 when it failed or no server is there, 130 when Ctrl-C stopped it.
    Call it from the main thread, where no event loop runs.
    """
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character must not end the chat.
        getattr(stream, "reconfigure", lambda **_: None)(errors="replace")
    screen = Screen(sys.stdout, sys.stderr)
    try:
        with asyncio.Runner() as runner:
            return _run(runner, options, screen=screen)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the answer has gone; Python's own flush at exit must not fail on it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(runner: asyncio.Runner, options: ChatOptions, *, screen: Screen) -> int:
    key = options.api_key or os.environ.get("PARLEY_API_KEY")
    try:
        models = runner.run(_probe(options, key))
        session = runner.run(_start(options, key, screen=screen))
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except ParleyError as error:
        sys.stderr.write(_unreachable(error, options.address) + "\n")
        return 1
    try:
        if options.text:
            return _STATUS[runner.run(session.say(options.text))]
        _greet(screen, options, models)
        return _converse(runner, session, screen=screen)
    finally:
        runner.run(session.client.close())


_STATUS: Final = {Outcome.COMPLETED: 0, Outcome.FAILED: 1, Outcome.STOPPED: 130, Outcome.LEFT: 130}


async def _probe(options: ChatOptions, key: str | None) -> list[resources_pb2.Model]:
    """The server's models, or an error at once: whoever starts a chat must not wait for a server that is not there.

    ValueError: the server has no model of the name that was asked for.
    """
    backoff = Backoff(max_elapsed_s=0.0)
    async with Client(
        options.address, api_key=key, end_user=options.end_user, backoff=backoff, call_timeout_s=_PROBE_S
    ) as client:
        models = await client.models()
    if options.model and (unknown := _unknown_model(options.model, models)):
        raise ValueError(unknown)
    return models


async def _start(options: ChatOptions, key: str | None, *, screen: Screen) -> Session:
    client = Client(options.address, api_key=key, end_user=options.end_user)
    return Session(client, screen, options)


def _unreachable(error: ParleyError, address: str) -> str:
    if isinstance(error, Unavailable | DeadlineExceeded) and not error.reason:
        return f"no Parley server at {address}; start one with `parley serve`"
    return f"error: {error}"


def _unknown_model(name: str, models: list[resources_pb2.Model]) -> str:
    """Why a model of this name cannot be used; empty where it can."""
    known = [model.alias for model in models]
    if name in known:
        return ""
    more = ", ..." if len(known) > _NAMED_MODELS else ""
    return f"there is no model {name!r}; there {_plural(len(known))}: {', '.join(known[:_NAMED_MODELS])}{more}"


def _plural(count: int) -> str:
    return "is 1" if count == 1 else f"are {count}"


def _greet(screen: Screen, options: ChatOptions, models: list[resources_pb2.Model]) -> None:
    model = options.model or next((model.alias for model in models if model.is_default), "")
    screen.note(f"Parley at {options.address}{', model ' + model if model else ''}. /help lists the commands.")


def _converse(runner: asyncio.Runner, session: Session, *, screen: Screen) -> int:
    is_typed = sys.stdin.isatty()
    if is_typed:
        with contextlib.suppress(ImportError):
            # Editing and history for input(), where the platform has it; what is pasted is one message.
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


class Session:
    """One user's chat: the conversation that is open, the model that is asked, and the commands."""

    def __init__(self, client: Client, screen: Screen, options: ChatOptions) -> None:
        self.client = client
        self.conversation_id = options.conversation
        self.failures = 0
        self._screen = screen
        self._model = options.model
        self._conversation_model = ""
        self._reasoning = options.reasoning
        self._last_message_id = ""
        self._listed: list[str] = []
        self._commands: dict[str, Callable[[str], Awaitable[object]]] = {
            "/list": lambda _: self.list_conversations(),
            "/open": self.open_conversation,
            "/new": self._new,
            "/model": self._use_model,
            "/models": lambda _: self._show_models(),
            "/retry": lambda _: self.retry(),
            "/help": self._help,
        }

    async def take(self, message: str) -> None:
        """Does what the user says: a command, or a message to the model. Raises a ParleyError of a command."""
        name, argument = (*message.split(maxsplit=1), "")[:2]
        if not name.startswith("/") or (name == "/script" and await self._is_scripted()):
            await self.say(message)
        elif name in self._commands:
            await self._commands[name](argument.strip())
        else:
            self._screen.note(f"{name}: no such command; /help lists them")

    async def say(self, text: str) -> Outcome:
        """Sends a message and shows the answer. A new conversation is titled by its first message."""
        fields = self._fields()
        if not self.conversation_id:
            fields["new_conversation"] = resources_pb2.Conversation(title=_words(text))
        return await self._follow(self.client.stream_reply(text, **fields))

    async def retry(self) -> None:
        """Asks for another answer in the place of the last one."""
        if not (self.conversation_id and self._last_message_id):
            self._screen.note("nothing to retry yet")
            return
        fields = self._fields()
        fields["replace_message_id"] = self._last_message_id
        await self._follow(self.client.stream_reply("", **fields))

    async def list_conversations(self) -> None:
        """Shows the newest conversations, numbered for `/open`."""
        self._listed = []
        async for conversation in self.client.conversations.list(page_size=_LISTED):
            self._listed.append(conversation.id)
            title = _words(conversation.title) or await self._newest_words(conversation.id)
            mark = "*" if conversation.id == self.conversation_id else " "
            age = _age(conversation.update_time.ToDatetime(tzinfo=UTC))
            self._screen.line(f"{mark}{len(self._listed):3}  {title}  ({age})")
            if len(self._listed) == _LISTED:
                break
        if not self._listed:
            self._screen.note("no conversations yet")

    async def open_conversation(self, which: str) -> None:
        """Continues a conversation, by its number in the list or its id; follows the reply that runs in it."""
        if not which:
            self._screen.note("/open what? a number of /list, or an id")
            return
        is_listed = which.isdecimal() and 1 <= int(which) <= len(self._listed)
        conversation = await self.client.conversations.get(self._listed[int(which) - 1] if is_listed else which)
        self.conversation_id = conversation.id
        self._conversation_model = conversation.model
        self._screen.note(_words(conversation.title) or conversation.id)
        await self._show_messages(conversation.id)
        if conversation.active_reply_id:
            await self._follow(self.client.resume(conversation.active_reply_id, reasoning=self._reasoning))

    def _fields(self) -> RequestFields:
        fields: RequestFields = {"reasoning": self._reasoning}
        if self.conversation_id:
            fields["conversation_id"] = self.conversation_id
        if self._model:
            fields["model"] = self._model
        return fields

    async def _follow(self, stream: ReplyStream) -> Outcome:
        outcome = await Answer(stream, self._screen, reasoning=self._reasoning).follow()
        self.conversation_id = stream.conversation_id or self.conversation_id
        self._last_message_id = stream.message_id or self._last_message_id
        self.failures += outcome is Outcome.FAILED
        return outcome

    async def _show_messages(self, conversation_id: str) -> None:
        newest: list[resources_pb2.Message] = []
        async for message in self.client.conversations.messages(conversation_id, page_size=_SHOWN_MESSAGES):
            newest.append(message)
            if len(newest) == _SHOWN_MESSAGES:
                break
        self._last_message_id = newest[0].id if newest else ""
        for message in reversed(newest):
            mark = "> " if message.role == resources_pb2.ROLE_USER else ""
            self._screen.line(mark + _text_of(message) + (" [unfinished]" if message.partial else ""))

    async def _newest_words(self, conversation_id: str) -> str:
        async for message in self.client.conversations.messages(conversation_id, page_size=1):
            return _words(_text_of(message)) or conversation_id
        return conversation_id

    async def _new(self, _: str) -> None:
        self.conversation_id = self._last_message_id = self._conversation_model = ""
        self._screen.note("a new conversation")

    async def _use_model(self, name: str) -> None:
        if name and (unknown := _unknown_model(name, await self.client.models())):
            self._screen.note(unknown)
            return
        self._model = name
        self._screen.note(f"model: {name}" if name else "model: the conversation's own")

    async def _show_models(self) -> None:
        for model in await self.client.models():
            mark = "*" if model.alias == self._model or (model.is_default and not self._model) else " "
            self._screen.line(f"{mark} {model.alias}  ({model.provider} {model.provider_model})")

    async def _is_scripted(self) -> bool:
        """Whether the model in use is the scripted one, which reads what to answer from a message."""
        used = self._model or self._conversation_model
        models = await self.client.models()
        return any(
            "scripted" in (model.alias, model.provider, model.provider_model)
            for model in models
            if (model.alias == used if used else model.is_default)
        )

    async def _help(self, _: str) -> None:
        self._screen.line(HELP)


def _text_of(message: resources_pb2.Message) -> str:
    texts = [part.text for part in message.parts if part.WhichOneof("content") == "text"]
    images = sum(part.WhichOneof("content") == "image" for part in message.parts)
    return " ".join([*texts, *["[image]"] * images])


def _words(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _TITLE_CHARS else line[: _TITLE_CHARS - 3].rstrip() + "..."


def _age(moment: datetime) -> str:
    minutes = max(0, int((datetime.now(UTC) - moment).total_seconds() // 60))
    if minutes < 1:
        return "just now"
    if minutes < 60:
        return f"{minutes} min ago"
    if minutes < 48 * 60:
        return f"{minutes // 60} h ago"
    return f"{minutes // (24 * 60)} days ago"
