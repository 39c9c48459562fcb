"""Time limits on a provider's answer, counted by tokens instead of bytes, without a timer per token."""

from __future__ import annotations

import asyncio

from parley_server.core.model import Finish, Prompt, Usage
from parley_server.core.ports import Clock, Provider, Sink, Timer
from parley_server.errors import ProviderTimeout

CANCEL_AGAIN_S = 1.0


class TimeLimits:
    """Allows `first_token_s` from the call to the first token (text, reasoning or tool call), then `idle_s` between
    tokens.

    A late call is cancelled, again every second until it ends. What it pushes meanwhile is dropped, and the caller gets
    `ProviderTimeout`. A cancel by the caller is passed on unchanged.
    """

    def __init__(self, provider: Provider, *, first_token_s: float, idle_s: float, clock: Clock) -> None:
        self._provider = provider
        self._first_token_s = first_token_s
        self._idle_s = idle_s
        self._clock = clock

    async def generate(self, prompt: Prompt, sink: Sink) -> Finish:
        task = asyncio.current_task()
        assert task is not None
        cancels_before = task.cancelling()
        watch = _Watch(sink, task, first_token_s=self._first_token_s, idle_s=self._idle_s, clock=self._clock)
        try:
            finish = await self._provider.generate(prompt, watch)
        except (Exception, asyncio.CancelledError):
            # A provider may convert the cancel of this watch to any other exception.
            if watch.stop():
                raise self._give_up(prompt, watch, cancelled=task.cancelling() > cancels_before) from None
            raise
        finally:
            watch.stop()
        if watch.expired:
            raise self._give_up(prompt, watch, cancelled=task.cancelling() > cancels_before)
        return finish

    async def close(self) -> None:
        await self._provider.close()

    def _give_up(self, prompt: Prompt, watch: _Watch, *, cancelled: bool) -> ProviderTimeout | asyncio.CancelledError:
        if cancelled:  # by the caller as well, which takes precedence
            return asyncio.CancelledError()
        name = prompt.model.provider
        if watch.begun:
            return ProviderTimeout(f"{name} sent no further token within {self._idle_s:g} s")
        return ProviderTimeout(f"{name} sent no first token within {self._first_token_s:g} s")


class _Watch:
    """Forwards to a sink, and records the time of the last token."""

    def __init__(
        self, sink: Sink, task: asyncio.Task[object], *, first_token_s: float, idle_s: float, clock: Clock
    ) -> None:
        self._sink = sink
        self._task = task
        self._idle_s = idle_s
        self._clock = clock
        self._monotonic = clock.monotonic
        self._deadline = clock.monotonic() + first_token_s
        self._last: float | None = None
        self.expired = False
        self._cancels = 0
        self._timer: Timer = clock.call_at(min(self._deadline, clock.monotonic() + idle_s), self._look)

    @property
    def begun(self) -> bool:
        """Whether a token has arrived."""
        return self._last is not None

    def stop(self) -> bool:
        """End the watch and undo its cancels. Returns whether the limit had expired."""
        self._timer.cancel()
        for _ in range(self._cancels):
            self._task.uncancel()
        self._cancels = 0
        return self.expired

    def _look(self) -> None:
        now = self._clock.monotonic()
        deadline = self._deadline if self._last is None else self._last + self._idle_s
        look_again = min(deadline, now + self._idle_s)  # a first token sets no timer of its own
        if now >= deadline or self.expired:
            self.expired = True
            self._cancels += 1
            self._task.cancel()
            look_again = now + CANCEL_AGAIN_S
        self._timer = self._clock.call_at(look_again, self._look)

    # --- Sink

    def text(self, text: str) -> None:
        if text and not self.expired:
            self._last = self._monotonic()
            self._sink.text(text)

    def reasoning(self, text: str, signature: bytes = b"") -> None:
        if (text or signature) and not self.expired:
            self._last = self._monotonic()
            self._sink.reasoning(text, signature)

    def tool_call(self, index: int, call_id: str, name: str, arguments: str) -> None:
        if not self.expired:
            self._last = self._monotonic()
            self._sink.tool_call(index, call_id, name, arguments)

    def usage(self, usage: Usage) -> None:
        if not self.expired:
            self._sink.usage(usage)

    def keep(self, origin: str, item: str) -> None:
        if not self.expired:
            self._sink.keep(origin, item)

    def flush(self) -> None:
        if not self.expired:
            self._sink.flush()
