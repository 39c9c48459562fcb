"""The state of one chat in the terminal, and its commands."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from parley import Client, ReplyStream, RequestFields
from parley.v1 import resources_pb2

from parley_server.cli.chat.reply_view import ReplyOutcome, ReplyView
from parley_server.cli.chat.screen import Screen

HELP: Final = """\
/list           your conversations, newest first
/open N|ID      continue one of them
/new            start a new conversation
/model [NAME]   use another model from now on; without a name, the conversation's own
/models         list the models
/retry          answer the last message again
/help           show this text
/script {...}   set the answer of the scripted model, if it is the model in use
/quit           leave (also Ctrl-C or Ctrl-D at the prompt)
A line that ends with \\ continues on the next line. A line of \"""
begins a message of several lines, and another one ends it.
Ctrl-C stops an answer while it is written; its text so far is kept."""

_LISTED = 20
_SHOWN_MESSAGES = 6
_TITLE_CHARS = 60
_NAMED_MODELS = 10


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """The options of `parley chat`; an empty string means not given. With `text`, one answer is printed."""

    text: str = ""
    address: str = "127.0.0.1:50051"
    model: str = ""
    conversation: str = ""
    end_user: str = ""
    # If empty, the environment variable PARLEY_API_KEY is used.
    api_key: str = field(default="", repr=False)
    reasoning: bool = False


class Session:
    """One chat: the open conversation, the model in use, and the commands."""

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
        """Run a command, or send a message to the model. Raises ParleyError for a command that fails."""
        name, argument = (*message.split(maxsplit=1), "")[:2]
        if not name.startswith("/") or (name == "/script" and await self._is_scripted()):
            await self.say(message)
        elif name in self._commands:
            await self._commands[name](argument.strip())
        else:
            self._screen.note(f"{name}: no such command; /help lists them")

    async def say(self, text: str) -> ReplyOutcome:
        """Send a message and show the answer. The first message becomes the title of a new conversation."""
        fields = self._fields()
        if not self.conversation_id:
            fields["new_conversation"] = resources_pb2.Conversation(title=_words(text))
        return await self._follow(self.client.stream_reply(text, **fields))

    async def retry(self) -> None:
        """Replace the last answer with a new one."""
        if not (self.conversation_id and self._last_message_id):
            self._screen.note("nothing to retry yet")
            return
        fields = self._fields()
        fields["replace_message_id"] = self._last_message_id
        await self._follow(self.client.stream_reply("", **fields))

    async def list_conversations(self) -> None:
        """Show the newest conversations, numbered for `/open`."""
        self._listed = []
        async for conversation in self.client.conversations.list(page_size=_LISTED):
            self._listed.append(conversation.id)
            title = _words(conversation.title) or await self._newest_words(conversation.id)
            mark = "*" if conversation.id == self.conversation_id else " "
            age = _age(conversation.update_time.ToDatetime(tzinfo=UTC))
            self._screen.line(f"{mark}{len(self._listed):3}  {title}  ({age})")
            if len(self._listed) == _LISTED:  # the client would go on with further pages
                break
        if not self._listed:
            self._screen.note("no conversations yet")

    async def open_conversation(self, which: str) -> None:
        """Continue a conversation, given its number in the list or its id, and follow its running reply if any."""
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

    async def _follow(self, stream: ReplyStream) -> ReplyOutcome:
        outcome = await ReplyView(stream, self._screen, reasoning=self._reasoning).follow()
        # Both are empty if the request was refused. Then the chat stays where it was.
        self.conversation_id = stream.conversation_id or self.conversation_id
        self._last_message_id = stream.message_id or self._last_message_id
        self.failures += outcome is ReplyOutcome.FAILED
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
        if name and (unknown := unknown_model(name, await self.client.models())):
            self._screen.note(unknown)
            return
        self._model = name
        self._screen.note(f"model: {name}" if name else "model: the conversation's own")

    async def _show_models(self) -> None:
        for model in await self.client.models():
            mark = "*" if model.alias == self._model or (model.is_default and not self._model) else " "
            self._screen.line(f"{mark} {model.alias}  ({model.provider} {model.provider_model})")

    async def _is_scripted(self) -> bool:
        """Whether the model in use is the scripted one, which takes its answer from `/script` messages."""
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


def unknown_model(name: str, models: list[resources_pb2.Model]) -> str:
    """The error message for a model that does not exist; empty if it exists."""
    known = [model.alias for model in models]
    if name in known:
        return ""
    more = ", ..." if len(known) > _NAMED_MODELS else ""
    return f"there is no model {name!r}; there {_plural(len(known))}: {', '.join(known[:_NAMED_MODELS])}{more}"


def _plural(count: int) -> str:
    return "is 1" if count == 1 else f"are {count}"
