"""Decides which quotas a reply touches, what it holds in them, and what callers see of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from parley_server.core.access import OTHER_TENANTS, Quota, TenantPolicy, Tenants
from parley_server.core.cost import cost_nano_usd
from parley_server.core.counts import MOST_COST, clamped, holdable_usage
from parley_server.core.model import Model, State, Usage
from parley_server.core.periods import SECOND_US, day_of, end_of, month_of, shown_time
from parley_server.core.quota_values import (
    TENANT,
    USER,
    Charge,
    Hold,
    QuotaLimit,
    QuotaRow,
    QuotaState,
    QuotaUse,
)
from parley_server.core.status_values import QuotaCap, QuotaCaps, QuotaSpot
from parley_server.errors import QuotaExceeded

_SUBJECTS = {USER: "end_user", TENANT: "tenant"}


class QuotaRules:
    """The quotas of all tenants. `output_tokens` is the assumed size of an answer without a limit of its own."""

    def __init__(self, tenants: Tenants, *, output_tokens: int) -> None:
        self._tenants = tenants
        self._output_tokens = output_tokens

    def limits(self, policy: TenantPolicy, end_user: str, now_us: int) -> tuple[QuotaLimit, ...]:
        """The limits of a reply that is accepted now; empty if no quota is configured."""
        return (
            *_limits_of(policy.quotas, USER, end_user, now_us),
            *_limits_of(policy.totals, TENANT, "", now_us),
        )

    def caps(self, now_us: int) -> QuotaCaps:
        """The limits of all tenants in the current day and month."""
        policies = self._tenants.policies
        caps = (
            QuotaCap(tenant=tenant, scope=limit.row.scope, period=limit.row.period, kind=kind, most=most)
            for tenant, policy in policies.items()
            for quota, scope in ((policy.quotas, USER), (policy.totals, TENANT))
            for limit in _limits_of(quota, scope, "", now_us)
            for kind, most in (("tokens", limit.tokens), ("cost_nano_usd", limit.cost))
            if most is not None
        )
        return QuotaCaps(caps=tuple(caps), named=tuple(name for name in policies if name != OTHER_TENANTS))

    def hold(
        self,
        limits: Sequence[QuotaLimit],
        candidates: Sequence[Model],
        *,
        prompt_tokens: int,
        max_output_tokens: int | None,
    ) -> Hold:
        """What a reply may use at most by estimate: of tokens with the first of its models, of cost with the dearest
        one. A model without prices costs nothing."""
        assumed = [
            Usage(prompt_tokens=prompt_tokens, completion_tokens=self._output(model, max_output_tokens))
            for model in candidates
        ]
        costs = [cost_nano_usd(usage, model.prices) or 0 for usage, model in zip(assumed, candidates, strict=True)]
        return Hold(
            tokens=clamped(assumed[0].prompt_tokens + assumed[0].completion_tokens),
            cost=clamped(max(costs), MOST_COST),
            rows=tuple(limit.row for limit in limits),
        )

    def _output(self, model: Model, max_output_tokens: int | None) -> int:
        wanted = max_output_tokens or self._output_tokens
        return min(wanted, model.max_output_tokens) if model.max_output_tokens else wanted


def _limits_of(quota: Quota, scope: str, end_user: str, now_us: int) -> list[QuotaLimit]:
    periods = (
        (day_of(now_us), quota.tokens_per_day, quota.cost_per_day),
        (month_of(now_us), quota.tokens_per_month, quota.cost_per_month),
    )
    return [
        QuotaLimit(row=QuotaRow(scope, end_user, period), tokens=tokens, cost=cost)
        for period, tokens, cost in periods
        if tokens is not None or cost is not None
    ]


def charge_of(usage: Usage, state: State, *, has_content: bool) -> Charge:
    """What quotas are charged: the usage, but nothing for a reply that failed without any content."""
    if state is State.FAILED and not has_content:
        return Charge()
    held = holdable_usage(usage)
    return Charge(tokens=held.prompt_tokens + held.completion_tokens, cost=held.cost_nano_usd or 0)


def states_of(limits: Iterable[QuotaLimit], uses: Iterable[QuotaUse]) -> list[QuotaState]:
    """Each limit with its use, which is 0 where `uses` has no value of its row."""
    by_row = {use.row: use for use in uses}
    states = []
    for limit in limits:
        use = by_row.get(limit.row, QuotaUse(row=limit.row))
        for kind, most, used in (("tokens", limit.tokens, use.tokens), ("cost_nano_usd", limit.cost, use.cost)):
            if most is not None:
                name, reset_time_us = _name(limit.row, kind), end_of(limit.row.period)
                states.append(QuotaState(name=name, limit=most, used=used, reset_time_us=reset_time_us))
    return states


def state_of(spot: QuotaSpot) -> QuotaState:
    """A limit with its use."""
    name, reset_time_us = _name(spot.row, spot.kind), end_of(spot.row.period)
    return QuotaState(name=name, limit=spot.most, used=spot.used, reset_time_us=reset_time_us)


def tightest(states: Iterable[QuotaState]) -> QuotaState | None:
    """The limit of which the least part is left."""
    return min(states, key=lambda state: (state.limit - state.used) / state.limit, default=None)


def refusal(limits: Iterable[QuotaLimit], uses: Iterable[QuotaUse], hold: Hold, now_us: int) -> QuotaExceeded | None:
    """The refusal of a reply that needs more than is left of a limit; None if `uses` leaves enough.

    If several limits refuse it, the error has the time of the one that is reset last."""
    by_row = {use.row: use for use in uses}
    found: list[tuple[QuotaState, str, int]] = []
    for limit in limits:
        needed = {"tokens": hold.tokens, "cost_nano_usd": hold.cost}
        for state in states_of([limit], [by_row[limit.row]] if limit.row in by_row else []):
            kind = next(kind for kind in needed if kind in state.name)
            if state.used + needed[kind] > state.limit:
                found.append((state, _SUBJECTS[limit.row.scope], needed[kind]))
    if not found:
        return None
    state, subject, needs = max(found, key=lambda each: each[0].reset_time_us)
    return QuotaExceeded(
        f"the quota {state.name} is used up until {shown_time(state.reset_time_us)}",
        retry_after_s=max(0.0, (state.reset_time_us - now_us) / SECOND_US),
        metadata={
            "limit": state.name,
            "used": str(state.used),
            "max": str(state.limit),
            "needed": str(needs),
            "subject": subject,
            "reset_time": shown_time(state.reset_time_us),
        },
        violations=tuple(
            (whose, f"{each.name}: {each.used} of {each.limit} used, {more} needed") for each, whose, more in found
        ),
    )


def _name(row: QuotaRow, kind: str) -> str:
    prefix = "tenant_" if row.scope == TENANT else ""
    return f"{prefix}{kind}_per_{'day' if len(row.period) > len('2026-11') else 'month'}"
