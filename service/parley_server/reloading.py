"""Applies a changed configuration to a running server: finds the change, checks all of it, then applies it at once.

A configuration with a fault changes nothing. Nothing that needs a restart is applied.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, Protocol

from parley_server.core.ports import Clock
from parley_server.core.tasks import done_within
from parley_server.errors import NotConfigured
from parley_server.settings import Settings, SettingsError, SettingsSource, change_of

logger = logging.getLogger("parley.config")

LOOK_S: Final = 4.0
"""Seconds between two looks: a key that was removed is refused within 5 s."""
SETTLED_S: Final = 0.05
"""A change is read when the files have been the same for this time: a file may be written in several steps."""

APPLIED, UNCHANGED, FAULTY = "applied", "unchanged", "faulty"


class ReloadObserver(Protocol):
    """Receives events of the configuration."""

    def configuration_loaded(self, now_us: int, *, waiting: int) -> None:
        """A configuration without faults was read at this time, and is in use as far as it needs no restart. `waiting`:
        the number of its keys that differ from those in use, and need one."""

    def configuration_reloaded(self, outcome: str) -> None:
        """A look has found a change, or was requested. `outcome`: "applied", "unchanged" (nothing that can be applied
        differs) or "faulty" (nothing was applied)."""


async def changes(source: SettingsSource, requested: asyncio.Event, clock: Clock) -> AsyncIterator[None]:
    """Look for a change every `LOOK_S` seconds, and at once when `requested` is set. Yields after each look that found
    one, and after each requested one: a fault is reported again, and what could not be read before may be readable."""
    while True:
        waiting = asyncio.ensure_future(requested.wait())
        try:
            asked = await done_within(waiting, LOOK_S, clock)
        finally:
            waiting.cancel()
        requested.clear()
        changed = False
        while await asyncio.to_thread(source.changed):
            changed = True
            await clock.sleep(SETTLED_S)
        if changed or asked:
            yield


class Reloader:
    """Reloads the configuration of one process. `use` applies settings in one step, or raises `NotConfigured` and
    changes nothing; `tidy` closes what is no longer used."""

    def __init__(
        self,
        settings: Settings,
        source: SettingsSource,
        *,
        use: Callable[[Settings], None],
        tidy: Callable[[], Awaitable[None]],
        clock: Clock,
        observer: ReloadObserver,
    ) -> None:
        self._settings = settings
        self._source = source
        self._use = use
        self._tidy = tidy
        self._clock = clock
        self._observer = observer

    async def run(self, requested: asyncio.Event) -> None:
        """Apply changes, forever. `requested`: see `changes`."""
        self._observer.configuration_loaded(self._clock.now_us(), waiting=0)
        async for _ in changes(self._source, requested, self._clock):
            await self._reload()

    async def _reload(self) -> None:
        try:
            loaded = await asyncio.to_thread(self._source.load)
            change = change_of(self._settings, loaded)
            if change.applied:
                self._use(change.settings)
        except SettingsError as error:
            self._refuse(error.faults)
        except NotConfigured as error:
            self._refuse([error.message])
        except Exception:  # a defect must not end later reloads
            logger.exception("config_reload_failed")
            self._observer.configuration_reloaded(FAULTY)
        else:
            self._settings = change.settings
            self._observer.configuration_loaded(self._clock.now_us(), waiting=len(change.waiting))
            self._report(APPLIED if change.applied else UNCHANGED, *change.applied)
            warn_of_restart(change.waiting)
            await self._tidied()

    async def _tidied(self) -> None:
        try:
            await self._tidy()
        except Exception:  # as above
            logger.exception("config_tidy_failed")

    def _report(self, outcome: str, *applied: str) -> None:
        self._observer.configuration_reloaded(outcome)
        if applied:
            logger.info("config_reloaded", extra={"fields": {"changed": list(applied)}})
        else:
            logger.info("config_unchanged")

    def _refuse(self, faults: list[str]) -> None:
        self._observer.configuration_reloaded(FAULTY)
        logger.error("config_faulty", extra={"fields": {"faults": faults}})


def warn_of_restart(keys: tuple[str, ...]) -> None:
    """Log the changed keys that take effect with a restart, if there are any."""
    if keys:
        logger.warning("config_needs_restart", extra={"fields": {"keys": list(keys)}})
