"""What the core and the rate limiters exchange."""

from __future__ import annotations

import hashlib

from parley_server.core.model import Identity, Value

WINDOW_S = 60.0
"""Messages are counted in a window of this length that moves with time."""


class Taken(Value, frozen=True, kw_only=True):
    """The answer to a take. `used` counts the members in the window, with this one if it is allowed.

    `fresh`: the member was not in the window before. `wait_s`: the time until there is room, if it is refused. `local`:
    only members of this replica were counted, because Redis is not available."""

    allowed: bool
    used: int
    fresh: bool = False
    wait_s: float = 0.0
    local: bool = False


def rate_key(identity: Identity) -> str:
    """The key of an end user's window: 16 hexadecimal digits, so that no end user's name leaves the process. All calls
    of a tenant without an end user have the same key."""
    owner = f"{identity.tenant}\x00{identity.end_user}"
    return hashlib.sha256(owner.encode()).hexdigest()[:16]
