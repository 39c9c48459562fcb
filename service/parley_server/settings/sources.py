"""Where settings come from: arguments, then the environment, then the TOML file; a fault names the source it is in."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from parley_server.settings.faults import did_you_mean
from parley_server.settings.shape import Address

PREFIX = "PARLEY_"
LATER = "not supported by this release"
SCALARS_TO_COME = ("redis_url", "encryption_keys")

# Kubernetes sets these in every pod beside a Service whose name begins with "parley".
_SERVICE_LINK = re.compile(
    r"PARLEY(_[A-Z0-9_]+)?_(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_LOG_LEVELS = ("debug", "info", "warning", "error")
_LOG_FORMATS = ("json", "text")


def read_document(path: str, faults: list[str]) -> dict[str, Any]:
    """The TOML file as a table; empty where there is none, or where it cannot be read, which is a fault."""
    if not path:
        return {}
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"), parse_float=Decimal)
    except OSError as error:
        faults.append(f"{path}: {error.strerror or 'cannot be read'}")
    except UnicodeDecodeError:
        faults.append(f"{path}: is not UTF-8 text")
    except tomllib.TOMLDecodeError as error:
        faults.append(f"{path}: {error}")
    return {}


def read_scalars(
    document: Mapping[str, Any], environment: Mapping[str, str], *, arguments: Mapping[str, Any], faults: list[str]
) -> dict[str, Any]:
    """Every scalar, parsed, from the first source that has it. A wrong one is a fault, and stays at its default."""
    values = dict(_DEFAULTS)
    for name, parse in _PARSERS.items():
        found = _find(name, document, environment, arguments=arguments)
        if found is None:
            continue
        label, value = found
        try:
            values[name] = parse(value)
        except ValueError as error:
            faults.append(f"{label}: {error}")
    for name in SCALARS_TO_COME:
        found = _find(name, document, environment, arguments=arguments)
        if found is not None:
            faults.append(f"{found[0]}: {LATER}")
    return values


def check_variables(environment: Mapping[str, str], named: Collection[str], faults: list[str]) -> None:
    """A fault for each PARLEY_ variable that nothing reads. `named` are those that the configuration itself names."""
    known = [PREFIX + name.upper() for name in ("config", *_PARSERS, *SCALARS_TO_COME)]
    for variable in sorted(environment):
        if not variable.startswith(PREFIX) or variable in known or variable in named:
            continue
        if not _SERVICE_LINK.fullmatch(variable):
            faults.append(f"{variable}: unknown variable{did_you_mean(variable, known)}")


def _find(
    name: str, document: Mapping[str, Any], environment: Mapping[str, str], *, arguments: Mapping[str, Any]
) -> tuple[str, Any] | None:
    """The label and the value of a scalar. An empty variable is an unset one, but for the address that it turns off."""
    if arguments.get(name) is not None:
        return "--" + name.replace("_", "-"), arguments[name]
    variable = PREFIX + name.upper()
    if environment.get(variable) or (variable in environment and name == "metrics_listen"):
        return variable, environment[variable]
    return (name, document[name]) if name in document else None


def _address(value: Any) -> Address:
    return Address.parse(_string(value))


def _address_or_off(value: Any) -> Address | None:
    return None if value == "" else Address.parse(_string(value))


def _database_url(value: Any) -> str:
    url = _string(value)
    if url.startswith("postgresql"):
        raise ValueError(f"PostgreSQL is {LATER}")
    if not re.fullmatch(r"sqlite\+aiosqlite:///[^?]+", url):
        raise ValueError('must be "sqlite+aiosqlite:///PATH" of a file')
    if ":memory:" in url:
        raise ValueError("must name a file: a database in memory cannot be shared between connections")
    return url


def _switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _WORDS:
        return _WORDS[value.lower()]
    raise ValueError("must be 1 or 0, true or false")


def _log_level(value: Any) -> str:
    return _one_of(value, _LOG_LEVELS)


def _log_format(value: Any) -> str:
    return _one_of(value, _LOG_FORMATS)


def _one_of(value: Any, words: tuple[str, ...]) -> str:
    word = _string(value).lower()
    if word not in words:
        raise ValueError(f'must be {", ".join(words[:-1])} or {words[-1]} (got "{value}"){did_you_mean(word, words)}')
    return word


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a string")  # noqa: TRY004 - every wrong value is one kind of fault
    return value


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "listen": _address,
    "metrics_listen": _address_or_off,
    "database_url": _database_url,
    "insecure": _switch,
    "log_level": _log_level,
    "log_format": _log_format,
}
SCALARS = tuple(_PARSERS)
_DEFAULTS: dict[str, Any] = {
    "listen": Address(host="127.0.0.1", port=50051),
    "metrics_listen": Address(host="127.0.0.1", port=9464),
    "database_url": "sqlite+aiosqlite:///parley.db",
    "insecure": False,
    "log_level": "info",
    "log_format": "json",
}
