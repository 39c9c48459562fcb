"""Shows callers their quotas."""

from __future__ import annotations

from parley_server.core.access import Tenants
from parley_server.core.model import Identity
from parley_server.core.ports import Clock, Store
from parley_server.core.quota_values import QuotaState
from parley_server.core.quotas.rules import QuotaRules, states_of
from parley_server.core.rates.admission import Admission


class Quotas:
    """The limits and quotas that apply to a caller, with their use."""

    def __init__(self, tenants: Tenants, rules: QuotaRules, admission: Admission, store: Store, clock: Clock) -> None:
        self._tenants = tenants
        self._rules = rules
        self._admission = admission
        self._store = store
        self._clock = clock

    async def show(self, caller: Identity) -> list[QuotaState]:
        """Each limit that is configured for the caller's tenant. The use of quotas contains what running replies
        hold."""
        policy = self._tenants.policy(caller.tenant)
        states = await self._admission.states(caller, policy)
        limits = self._rules.limits(policy, caller.end_user, self._clock.now_us())
        if not limits:
            return states
        uses = await self._store.read_quotas(caller.tenant, [limit.row for limit in limits])
        return [*states, *states_of(limits, uses)]
