"""Answers questions about usage, within what the caller may see."""

from __future__ import annotations

import msgspec

from parley_server.core.access import AccessRole, Principal
from parley_server.core.field_checks import check_key
from parley_server.core.model import Value
from parley_server.core.page_tokens import cursor_of, page_token_of
from parley_server.core.periods import DAY_US
from parley_server.core.ports import Clock, Store
from parley_server.core.usage_values import UsageQuery, UsageSums, key_columns
from parley_server.errors import Forbidden, InvalidRequest

DEFAULT_PAGE = 50
MAX_PAGE = 1000


class UsageReport(Value, frozen=True, kw_only=True):
    """A page of sums. The token is empty on the last page."""

    rows: tuple[UsageSums, ...]
    next_page_token: str = ""


class UsageReports:
    """Administrators see all tenants; others their own tenant, and with an end user, that end user alone.

    Rows of usage are kept for `usage_days` (0: for ever). Of an older day there are only sums, so that it counts whole
    where a range cuts it."""

    def __init__(self, store: Store, clock: Clock, *, usage_days: int) -> None:
        self._store = store
        self._clock = clock
        self._usage_days = usage_days

    async def list(self, caller: Principal, query: UsageQuery, page_size: int, page_token: str) -> UsageReport:
        """A page of sums, sorted by tenant, end user, day, model, outcome, as far as they are grouped by.

        Raises `Forbidden` if the filters name another tenant or end user than the caller may see."""
        if page_size < 0:
            raise InvalidRequest.field("page_size", "must not be negative")
        for name in ("tenant", "end_user", "model"):
            check_key(name, getattr(query, name))
        if query.end_us is not None and query.end_us <= query.start_us:
            raise InvalidRequest.field("end_time", "must be after start_time")
        allowed = _within(caller, query)
        columns = key_columns(allowed)
        after = cursor_of(page_token, allowed, tuple[str, ...]) or ()
        if page_token and len(after) != len(columns):
            raise InvalidRequest.field("page_token", "is not a token that a page has returned")
        page = await self._store.list_usage(
            self._in_whole_days(allowed), after, min(page_size or DEFAULT_PAGE, MAX_PAGE)
        )
        if not page.more:
            return UsageReport(rows=page.rows)
        last = tuple(getattr(page.rows[-1].key, name) for name in columns)
        return UsageReport(rows=page.rows, next_page_token=page_token_of(last, allowed))

    def _in_whole_days(self, query: UsageQuery) -> UsageQuery:
        kept_from_us = (self._clock.now_us() // DAY_US - self._usage_days) * DAY_US if self._usage_days else 0
        start_us, end_us = query.start_us, query.end_us
        if start_us < kept_from_us:
            start_us = start_us // DAY_US * DAY_US
        if end_us is not None and end_us < kept_from_us:
            end_us = -(-end_us // DAY_US) * DAY_US
        return msgspec.structs.replace(query, start_us=start_us, end_us=end_us)


def _within(caller: Principal, query: UsageQuery) -> UsageQuery:
    if AccessRole.ADMIN in caller.roles:
        return query
    own = {"tenant": caller.tenant, "end_user": caller.end_user}
    for name, value in own.items():
        asked = getattr(query, name)
        if value and asked and asked != value:
            raise Forbidden(f"the credential does not allow questions about another {name}")
    return msgspec.structs.replace(query, tenant=caller.tenant, end_user=caller.end_user or query.end_user)
