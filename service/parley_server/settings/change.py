"""What a changed configuration changes in a running server: what is applied, and what needs a restart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parley_server.settings.faults import SettingsError
from parley_server.settings.load import exposure_faults, stored_key_faults
from parley_server.settings.shape import Address, Settings
from parley_server.settings.sources import SCALARS
from parley_server.settings.values import Shape

APPLIED = ("providers", "models", "tenants", "identity")
"""Tables that are applied as a whole."""
APPLIED_OF_SERVER = ("default_model", "summary_model")
"""Keys of `[server]` that name models, and are applied with them."""


@dataclass(frozen=True)
class Change:
    """settings: those of the server after the change. applied: the tables and keys that differ from its present ones,
    such as "models.fast". waiting: the keys that differ and take effect with a restart alone."""

    settings: Settings
    applied: tuple[str, ...]
    waiting: tuple[str, ...]


def change_of(running: Settings, loaded: Settings) -> Change:
    """The change from the settings of a running server to those that were loaded.

    Raises `SettingsError` if what would be applied is not valid together with what needs a restart, or if it would open
    a server that has credentials to every caller: a file that is cut off while it is written must not do that."""
    server = {name: getattr(loaded.server, name) for name in APPLIED_OF_SERVER}
    new = {name: getattr(loaded, name) for name in APPLIED}
    settings = running.model_copy(update={**new, "server": running.server.model_copy(update=server)})
    if faults := _faults(running, settings):
        raise SettingsError(faults)
    applied = [key for name in APPLIED for key in _differing(getattr(running, name), new[name], name)]
    applied += _differing(running.server, settings.server, "server")
    waiting = [
        key
        for name in Settings.model_fields
        if name not in APPLIED
        for key in _differing(getattr(settings, name), getattr(loaded, name), name)
    ]
    return Change(settings, tuple(applied), tuple(waiting))


def _faults(running: Settings, settings: Settings) -> list[str]:
    scalars = {name: getattr(settings, name) for name in SCALARS}
    exposed = exposure_faults(scalars, has_tls=settings.tls is not None, has_credentials=not settings.is_open)
    faults = [f"{fault} (without a restart)" for fault in (*exposed, *stored_key_faults(scalars, settings.providers))]
    if settings.is_open and not running.is_open:
        faults.append(
            "tenants, identity: without the last credential every caller would be accepted, which needs a restart"
        )
    if settings.tls is None or settings.tls.client_ca is None:
        faults.extend(
            f"tenants.{name}.certificates: need tls.client_ca, which takes effect with a restart"
            for name, tenant in settings.tenants.items()
            if tenant.certificates
        )
    return faults


def _differing(before: Any, after: Any, path: str) -> list[str]:
    """The paths of the values that differ, one level below a table."""
    if before == after:
        return []
    parts = [_parts(value) for value in (before, after)]
    if parts[0] is None or parts[1] is None:
        return [path]
    names = dict.fromkeys((*parts[0], *parts[1]))
    return [f"{path}.{name}" for name in names if parts[0].get(name) != parts[1].get(name)]


def _parts(value: Any) -> Mapping[str, Any] | None:
    """The values of a table by their keys; None for any other value."""
    if isinstance(value, Shape) and not isinstance(value, Address):
        return {name: getattr(value, name) for name in type(value).model_fields}
    return value if isinstance(value, dict) else None
