"""Reports the outcome of each provider call to an observer, without any change to the call itself."""

from __future__ import annotations

import asyncio

from parley_server.core.model import Finish, Prompt
from parley_server.core.observer import AttemptObserver
from parley_server.core.ports import Provider, Sink
from parley_server.errors import ParleyError, Reason

OK = "OK"
CANCELLED = "CANCELLED"


class ObservedProvider:
    """Wraps a provider. `observer` receives "OK", "CANCELLED" or the reason of the error, once for each call."""

    def __init__(self, provider: Provider, *, observer: AttemptObserver) -> None:
        self._provider = provider
        self._observer = observer

    async def generate(self, prompt: Prompt, sink: Sink) -> Finish:
        outcome = Reason.INTERNAL.value
        try:
            finish = await self._provider.generate(prompt, sink)
            outcome = OK
        except asyncio.CancelledError:
            outcome = CANCELLED
            raise
        except ParleyError as error:
            outcome = error.reason.value
            raise
        finally:
            self._observer.provider_attempt(prompt.model.provider, outcome)
        return finish

    async def close(self) -> None:
        await self._provider.close()
