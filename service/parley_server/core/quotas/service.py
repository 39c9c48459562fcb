"""Shows callers their quotas."""

from __future__ import annotations

from parley_server.core.model import Identity
from parley_server.core.ports import Clock, Store
from parley_server.core.quota_values import QuotaState
from parley_server.core.quotas.rules import QuotaRules, states_of


class Quotas:
    """The quotas that apply to a caller, with their use."""

    def __init__(self, rules: QuotaRules, store: Store, clock: Clock) -> None:
        self._rules = rules
        self._store = store
        self._clock = clock

    async def show(self, caller: Identity) -> list[QuotaState]:
        """Each quota that is configured for the caller's tenant; the use contains what running replies hold."""
        limits = self._rules.limits(caller.tenant, caller.end_user, self._clock.now_us())
        if not limits:
            return []
        return states_of(limits, await self._store.read_quotas(caller.tenant, [limit.row for limit in limits]))
