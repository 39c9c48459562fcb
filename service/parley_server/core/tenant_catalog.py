"""The models that one tenant may name."""

from __future__ import annotations

import msgspec

from parley_server.core.access import TenantPolicy
from parley_server.core.model import Model
from parley_server.core.ports import Catalog, Route
from parley_server.errors import ModelNotFound


def catalog_for(catalog: Catalog, policy: TenantPolicy) -> Catalog:
    """The catalog as a tenant with this policy sees it."""
    return catalog if policy.models is None else TenantCatalog(catalog, policy.models)


class TenantCatalog:
    """A catalog in which other aliases do not exist. The default model is the catalog's if the tenant may name it, else
    the first of `aliases`. A model's own fallbacks are the operator's choice, so that they stay. Implements
    `Catalog`."""

    def __init__(self, catalog: Catalog, aliases: tuple[str, ...]) -> None:
        self._catalog = catalog
        self._aliases = aliases

    def current(self) -> Catalog:
        """See `Catalog`."""
        return TenantCatalog(self._catalog.current(), self._aliases)

    def model(self, alias: str) -> Model:
        """See `Catalog`."""
        alias = alias or self._default()
        if alias not in self._aliases:
            raise ModelNotFound(alias)
        return self._catalog.model(alias)

    def candidates(self, alias: str, fallbacks: tuple[str, ...]) -> tuple[Model, ...]:
        """See `Catalog`."""
        first, *_ = [self.model(each) for each in (alias, *fallbacks)]
        return self._catalog.candidates(first.alias, fallbacks)

    def route(self, candidates: tuple[Model, ...]) -> Route:
        """See `Catalog`."""
        return self._catalog.route(candidates)

    def models(self) -> list[Model]:
        """See `Catalog`."""
        default = self._default()
        found = [model for model in self._catalog.models() if model.alias in self._aliases]
        shown = [msgspec.structs.replace(model, is_default=model.alias == default) for model in found]
        return sorted(shown, key=lambda model: not model.is_default)

    def _default(self) -> str:
        alias = self._catalog.model("").alias
        return alias if alias in self._aliases else self._aliases[0]
