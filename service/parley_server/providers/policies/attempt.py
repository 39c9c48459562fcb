"""One try of a provider: its time limits, counted by tokens instead of bytes, and what of its output may be shown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from parley_server.core.model import Finish, Prompt, Usage
from parley_server.core.ports import Clock, Provider, Sink, Timer
from parley_server.errors import ProviderTimeout

CANCEL_AGAIN_S = 1.0


def _nothing() -> None:
    """Default of `on_begin`."""


class Attempt:
    """The sink of one try, between a provider and the sink of the reply.

    It allows `first_token_s` from its creation to the first token (text, reasoning or tool call), then `idle_s` between
    tokens, without a timer per token. Usage and kept items are held back until the first token or the success of the
    try, so that a failed try without a token leaves nothing in the reply. `on_begin` is called at the first token.
    `first_content_at_s` is the time of the first token by the clock, `last_usage` the provider's last count.
    """

    __slots__ = (
        "_cancels",
        "_clock",
        "_deadline",
        "_first_token_s",
        "_idle_s",
        "_kept",
        "_last",
        "_monotonic",
        "_on_begin",
        "_passing",
        "_sink",
        "_task",
        "_timer",
        "_usage",
        "expired",
        "first_content_at_s",
        "last_usage",
    )

    def __init__(
        self,
        sink: Sink,
        *,
        first_token_s: float,
        idle_s: float,
        clock: Clock,
        on_begin: Callable[[], None] = _nothing,
    ) -> None:
        now = clock.monotonic()
        self._sink = sink
        self._task = asyncio.current_task()
        self._first_token_s = first_token_s
        self._idle_s = idle_s
        self._clock = clock
        self._monotonic = clock.monotonic
        self._on_begin = on_begin
        self._deadline = now + first_token_s
        self._last: float | None = None
        self._passing = False
        self._usage: Usage | None = None
        self._kept: list[tuple[str, str]] = []
        self._cancels = 0
        self.expired = False
        self.first_content_at_s: float | None = None
        self.last_usage: Usage | None = None
        self._timer: Timer = clock.call_at(min(self._deadline, now + idle_s), self._look)

    @property
    def begun(self) -> bool:
        """Whether a token has arrived."""
        return self._last is not None

    async def run(self, provider: Provider, prompt: Prompt) -> Finish:
        """Ask the provider, in the task that created this attempt. See `Provider.generate`.

        A late call is cancelled, again every second until it ends. What it pushes meanwhile is dropped, and the caller
        gets `ProviderTimeout`. A cancel by the caller is passed on unchanged."""
        task = self._task
        assert task is not None
        cancels_before = task.cancelling()
        try:
            finish = await provider.generate(prompt, self)
        except (Exception, asyncio.CancelledError):
            # A provider may convert the cancel of this attempt to any other exception.
            if self._stop():
                raise self._give_up(prompt, cancelled=task.cancelling() > cancels_before) from None
            raise
        finally:
            self._stop()
        if self.expired:
            raise self._give_up(prompt, cancelled=task.cancelling() > cancels_before)
        self._release()
        return finish

    def count(self) -> None:
        """Report the usage of this failed try, which was the last one."""
        if self._usage is not None:
            self._sink.usage(self._usage)
            self._usage = None

    def _stop(self) -> bool:
        """End the time limits and undo their cancels. Returns whether one had expired."""
        self._timer.cancel()
        if self._task is not None:
            for _ in range(self._cancels):
                self._task.uncancel()
            self._task = None  # its exception may refer to this attempt: no reference cycle may remain
        return self.expired

    def _give_up(self, prompt: Prompt, *, cancelled: bool) -> ProviderTimeout | asyncio.CancelledError:
        if cancelled:  # by the caller as well, which takes precedence
            return asyncio.CancelledError()
        name = prompt.model.provider
        if self.begun:
            return ProviderTimeout(f"{name} sent no further token within {self._idle_s:g} s")
        return ProviderTimeout(f"{name} sent no first token within {round(self._first_token_s, 2):g} s")

    def _look(self) -> None:
        now = self._clock.monotonic()
        deadline = self._deadline if self._last is None else self._last + self._idle_s
        look_again = min(deadline, now + self._idle_s)  # a first token sets no timer of its own
        if now >= deadline or self.expired:
            self.expired = True
            self._passing = False
            self._cancels += 1
            assert self._task is not None  # the timer ends before
            self._task.cancel()
            look_again = now + CANCEL_AGAIN_S
        self._timer = self._clock.call_at(look_again, self._look)

    def _begins(self) -> bool:
        """Whether a token that arrives while nothing is passed on is the first one, in time."""
        if self.expired:
            return False
        self._on_begin()
        self.first_content_at_s = self._monotonic()
        self._passing = True
        self._release()
        return True

    def _release(self) -> None:
        self.count()
        for origin, item in self._kept:
            self._sink.keep(origin, item)
        self._kept.clear()

    # --- Sink

    def text(self, text: str) -> None:
        if text and (self._passing or self._begins()):
            self._last = self._monotonic()
            self._sink.text(text)

    def reasoning(self, text: str, signature: bytes = b"") -> None:
        if (text or signature) and (self._passing or self._begins()):
            self._last = self._monotonic()
            self._sink.reasoning(text, signature)

    def tool_call(self, index: int, call_id: str, name: str, arguments: str) -> None:
        if self._passing or self._begins():
            self._last = self._monotonic()
            self._sink.tool_call(index, call_id, name, arguments)

    def usage(self, usage: Usage) -> None:
        self.last_usage = usage
        if self._passing:
            self._sink.usage(usage)
        elif not self.expired:
            self._usage = usage

    def keep(self, origin: str, item: str) -> None:
        if self._passing:
            self._sink.keep(origin, item)
        elif not self.expired:
            self._kept.append((origin, item))

    def flush(self) -> None:
        if self._passing:
            self._sink.flush()
