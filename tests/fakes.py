"""Values and small parts that tests of the core share. Whatever the product ships is used as it is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, cast

import msgspec
from hypothesis import strategies as st
from parley_server.core.events import (
    Chunk,
    Entry,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    UsageUpdate,
)
from parley_server.core.limits import Limits, limits_of
from parley_server.core.model import (
    Finish,
    FinishReason,
    Identity,
    Message,
    Model,
    Prices,
    Prompt,
    Reply,
    ReplyError,
    Role,
    State,
    TextPart,
    Usage,
)
from parley_server.core.ports import Provider, Route, Sink, Store
from parley_server.core.replies.generate import Generation
from parley_server.core.replies.log import Reader
from parley_server.core.requests import ReplyPayload, ReplyRequest
from parley_server.errors import ModelNotFound, Reason, StorageUnavailable
from parley_server.journal.journals import CheckpointJournal
from parley_server.modes import ClusterCore, Parts, StandaloneCore
from parley_server.providers.policies.route import ModelRoute
from parley_server.settings import ServerSettings
from parley_server.store import SqlStore

from tests.clock import START_US, ManualClock, settle

ALICE = Identity(tenant="shop", end_user="alice")


def reply(reply_id: str = "reply-1", **changes: object) -> Reply:
    """A running reply."""
    given = Reply(
        id=reply_id,
        tenant="shop",
        end_user="alice",
        conversation_id="conversation-1",
        request_id="request-1",
        message_id="message-2",
        parent_message_id="message-1",
        model="fast",
        provider="scripted",
        create_time_us=START_US,
    )
    return msgspec.structs.replace(given, **changes)


def ended(running: Reply, **changes: object) -> Reply:
    """The same reply, as stored when it has ended: completed, if `changes` do not say otherwise."""
    state = changes.pop("state", State.COMPLETED)
    end: dict[str, object] = {"state": state, "usage": Usage(prompt_tokens=3, completion_tokens=5)}
    if state is State.FAILED:
        end["error"] = ReplyError(reason=Reason.OWNER_LOST, message="gone", retryable=True)
    else:
        end["finish_reason"] = FinishReason.STOP if state is State.COMPLETED else FinishReason.CANCELLED
    return msgspec.structs.replace(running, **(end | changes))


def texts_of(chunks: Iterable[Chunk]) -> str:
    """The text that chunks add up to."""
    return "".join(chunk.entry.text for chunk in chunks if isinstance(chunk.entry, TextDelta))


def entries() -> st.SearchStrategy[Entry]:
    """Entries of every kind that a provider can bring about."""
    words = st.text(st.characters(codec="utf-8"), max_size=4)
    counts = st.integers(0, 1000)
    return st.one_of(
        st.builds(TextDelta, words),
        st.builds(ReasoningDelta, words, st.sampled_from([b"", b"", b"signature"])),
        st.builds(ToolCallDelta, st.integers(0, 2), st.just("id"), st.just("name"), words),
        st.builds(ToolCallDelta, st.integers(0, 2), st.just(""), st.just(""), words),
        st.builds(UsageUpdate, st.builds(Usage, prompt_tokens=counts, completion_tokens=counts)),
    )


Act = Callable[[Prompt, Sink], Awaitable[Finish]]

STOP = Finish(reason=FinishReason.STOP, provider_reason="stop")
FAST = Model(
    alias="fast",
    provider="scripted",
    name="fast-1",
    images=True,
    max_output_tokens=100,
    prices=Prices(prompt=1_000_000, completion=2_000_000),
    is_default=True,
)


async def say_hello(prompt: Prompt, sink: Sink) -> Finish:
    """An answer at once."""
    for piece in ("Hel", "lo"):
        sink.text(piece)
        sink.flush()
    return STOP


class Typist:
    """Says what the test puts in, and ends when it is told to."""

    def __init__(self) -> None:
        self.words: asyncio.Queue[str | None] = asyncio.Queue()

    async def act(self, prompt, sink):
        while (word := await self.words.get()) is not None:
            if word.startswith("("):
                sink.reasoning(word)
            else:
                sink.text(word)
            sink.flush()
        return STOP

    async def say(self, *words: str | None) -> None:
        for word in words:
            self.words.put_nowait(word)
        await settle()


class Actor:
    """A provider that does what a test tells it, and remembers what it was asked and how its calls ended."""

    def __init__(self, act: Act = say_hello) -> None:
        self.act = act
        self.prompts: list[Prompt] = []
        self.open_calls = 0

    async def generate(self, prompt: Prompt, sink: Sink) -> Finish:
        """See `Provider`."""
        self.prompts.append(prompt)
        self.open_calls += 1
        try:
            return await self.act(prompt, sink)
        finally:
            self.open_calls -= 1

    async def close(self) -> None:
        """Nothing is kept."""


class OneModel:
    """A catalog of one model."""

    def __init__(self, provider: Provider, model: Model = FAST) -> None:
        self.provider = provider
        self.only = model

    def model(self, alias: str) -> Model:
        """See `Catalog`."""
        if alias not in ("", self.only.alias):
            raise ModelNotFound(f"no model {alias}")
        return self.only

    def candidates(self, alias: str, fallbacks: tuple[str, ...]) -> tuple[Model, ...]:
        """See `Catalog`."""
        return (self.model(alias), *[self.model(each) for each in fallbacks])

    def route(self, candidates: tuple[Model, ...]) -> Route:
        """See `Catalog`."""
        return ModelRoute(tuple((model, self.provider) for model in candidates))

    def models(self) -> list[Model]:
        """See `Catalog`."""
        return [self.only]


class FixedPrompt:
    """Implements `Prompts` with one prompt for all models."""

    def __init__(self, prompt: Prompt) -> None:
        self.asked: Prompt | None = prompt

    def of(self, model: Model, *, with_kept: bool = True) -> Prompt:
        """See `Prompts`."""
        assert self.asked is not None
        return msgspec.structs.replace(self.asked, model=model)

    def refused_as_too_long(self, model: Model, *, limit_tokens: int | None, prompt_tokens: int | None) -> bool:
        """See `Prompts`."""
        return False


class Notes:
    """An observer that writes down what it is told."""

    utilisation = 0.0
    overloaded = False

    def __init__(self) -> None:
        self.started = 0
        self.ended: list[tuple[Reply, float, int]] = []
        self.readers = 0
        self.first_tokens: list[float] = []
        self.refusals: list[Reason] = []
        self.is_fenced = False
        self.taken_over = 0

    def reply_started(self) -> None:
        """See `Observer`."""
        self.started += 1

    def reply_ended(self, reply: Reply, *, overhead_s: float, text_length: int) -> None:
        """See `Observer`."""
        self.ended.append((reply, overhead_s, text_length))

    def reader_joined(self) -> None:
        """See `Observer`."""
        self.readers += 1

    def reader_left(self) -> None:
        """See `Observer`."""
        self.readers -= 1

    def first_token(self, seconds: float, model: str) -> None:
        """See `Observer`."""
        self.first_tokens.append(seconds)

    def refused(self, reason: Reason) -> None:
        """See `Observer`."""
        self.refusals.append(reason)

    def fenced(self, fenced: bool) -> None:
        """See `Observer`."""
        self.is_fenced = fenced

    def reply_taken_over(self) -> None:
        """See `Observer`."""
        self.taken_over += 1


class Interference:
    """A store in whose calls a test interferes: `before` and `after` hold, by method, what to await around a call. With
    `away`, none is carried out; `under_way` are those that the store has not answered yet."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        self.before: dict[str, Callable[..., Awaitable[None]]] = {}
        self.after: dict[str, Callable[..., Awaitable[None]]] = {}
        self.calls: list[str] = []
        self.away = False
        self.under_way = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        async def call(*given: Any, **named: Any) -> Any:
            self.calls.append(name)
            if (hook := self.before.get(name)) is not None:
                await hook(*given)
            if self.away:
                raise StorageUnavailable
            self.under_way += 1
            try:
                result = await method(*given, **named)
            finally:
                self.under_way -= 1
            if (hook := self.after.get(name)) is not None:
                await hook(*given)
            return result

        return call

    def fail(self, name: str, *, times: int, after: bool = False, unknown: bool = False) -> None:
        """The next `times` calls of a method raise `StorageUnavailable`; with `after`, once they are carried out."""
        left = times

        async def hook(*_: Any) -> None:
            nonlocal left
            if left > 0:
                left -= 1
                raise StorageUnavailable(outcome_unknown=unknown)

        (self.after if after else self.before)[name] = hook


def limits_with(**changes: Any) -> Limits:
    """The limits of a server without a configuration, but for these."""
    return msgspec.structs.replace(limits_of(ServerSettings()), **changes)


class World:
    """The core with its real parts, on a store, a clock that stands still and a provider that acts as told."""

    def __init__(
        self,
        store: SqlStore,
        act: Act = say_hello,
        *,
        journal: bool = False,
        clock: ManualClock | None = None,
        **limits: Any,
    ) -> None:
        self.clock = clock or ManualClock()
        self.store = Interference(store)
        self.actor = Actor(act)
        self.notes = Notes()
        self.catalog = OneModel(self.actor)
        self.limits = limits_with(**limits)
        self.core = self._build()
        self.tasks = self.core.tasks
        self.lease = self.core.lease
        self.live_replies = self.core.live_replies
        self.recovery = self.core.recovery
        self.replies = self.core.replies
        self.conversations = self.core.conversations
        if journal:
            self.journal.start()

    def _build(self) -> StandaloneCore | ClusterCore:
        self.journal = CheckpointJournal(cast(Store, self.store), self.clock)
        return StandaloneCore(self._parts(), cast(Store, self.store), self.journal)

    def _parts(self) -> Parts:
        return Parts(catalog=self.catalog, clock=self.clock, observer=self.notes, load=self.notes, limits=self.limits)

    async def begin(self, act: Act | None = None, **fields: Any) -> Generation:
        """A new reply, running."""
        if act is not None:
            self.actor.act = act
        accepted = await self.core.acceptances.accept(asking(**fields))
        assert isinstance(accepted, Generation)
        return accepted

    async def stored(self, reply_id: str) -> Reply:
        """The row."""
        return await self.store.get_reply(Identity(tenant="shop"), reply_id)

    async def settled(self, generation: Generation) -> Reply:
        """The row of a reply once its log is over."""
        async with asyncio.timeout(10):
            await Reader(generation.log, 0).until_ended()
        await settle()
        return await self.stored(generation.log.reply.id)

    async def aclose(self) -> None:
        """End what still runs, with nothing in the store's way."""
        self.store.before.clear()
        self.store.after.clear()
        self.store.away = False
        ending = asyncio.ensure_future(self._end())
        while not ending.done():
            await asyncio.sleep(0.001)
            await self.clock.advance(1.0)
        await ending

    async def _end(self) -> None:
        self.replies.hurry()
        for generation in list(self.live_replies.running.values()):
            await Reader(generation.log, 0).until_ended()
        await self.journal.stop()


def asking(text: str = "hi", *, request_id: str = "", identity: Identity = ALICE, **fields: Any) -> ReplyRequest:
    """A request with one user message."""
    message = Message(role=Role.USER, parts=(TextPart(text=text),))
    payload = ReplyPayload(**({"messages": (message,)} | fields))
    return ReplyRequest(identity=identity, request_id=request_id, payload=payload)
