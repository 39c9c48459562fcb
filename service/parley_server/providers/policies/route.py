"""Asks the models that may answer a reply."""

from __future__ import annotations

from parley_server.core.model import Finish, Model
from parley_server.core.ports import Prompts, Provider, RouteSink


class ModelRoute:
    """Implements `Route`: `candidates` are the models in order, each with its provider."""

    def __init__(self, candidates: tuple[tuple[Model, Provider], ...]) -> None:
        self._candidates = candidates

    async def generate(self, prompts: Prompts, sink: RouteSink) -> Finish:
        """See `Route`."""
        model, provider = self._candidates[0]
        sink.asks(model)
        return await provider.generate(prompts.of(model), sink)
