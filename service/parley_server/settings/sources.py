"""Reads scalars from the arguments, the environment and the TOML file, in this order. A fault names its source."""

from __future__ import annotations

import base64
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

from parley_server.settings.faults import did_you_mean
from parley_server.settings.files import read_limited
from parley_server.settings.shape import MAX_WORKERS, Address, LogFormat, LogLevel, Settings
from parley_server.settings.urls import POSTGRESQL_FORM, check_database_url, check_redis_url, is_sqlite

PREFIX = "PARLEY_"
ENCRYPTION_KEY_CHARACTERS = 44

# Kubernetes sets these variables in every pod if a Service has a name that begins with "parley".
_SERVICE_LINK = re.compile(
    r"PARLEY(_[A-Z0-9_]+)?_(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
_MAY_BE_OFF = ("metrics_listen", "ui_listen")
_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def read_document(path: str, faults: list[str]) -> dict[str, Any]:
    """The TOML file as a table; empty if `path` is empty, or if the file cannot be read, which is a fault."""
    if not path:
        return {}
    try:
        return tomllib.loads(read_limited(Path(path)).decode(), parse_float=Decimal)
    except OSError as error:
        faults.append(f"{path}: {error.strerror or 'cannot be read'}")
    except UnicodeDecodeError:
        faults.append(f"{path}: is not UTF-8 text")
    except tomllib.TOMLDecodeError as error:
        faults.append(f"{path}: {error}")
    except RecursionError:
        faults.append(f"{path}: is nested too deeply")
    return {}


def read_scalars(
    document: Mapping[str, Any], environment: Mapping[str, str], *, arguments: Mapping[str, Any], faults: list[str]
) -> dict[str, Any]:
    """Every scalar, parsed, from the first source that has it. An invalid value is a fault; its default is used."""
    values = dict(_DEFAULTS)
    wrong: set[str] = set()
    for name, parse in _PARSERS.items():
        found = _find(name, document, environment, arguments=arguments)
        if found is None:
            continue
        label, value = found
        try:
            values[name] = parse(value)
        except ValueError as error:
            faults.append(f"{label}: {error}")
            wrong.add(name)
    _check_together(values, wrong, faults)
    return values


def _check_together(values: Mapping[str, Any], wrong: Collection[str], faults: list[str]) -> None:
    """Check scalars that depend on each other: only replicas on one PostgreSQL database use a relay, and several
    workers are such replicas."""
    if "database_url" in wrong or "redis_url" in wrong:
        return
    if not is_sqlite(values["database_url"]):
        if values["workers"] > 1 and not values["redis_url"]:
            faults.append("workers: several workers need a relay: set PARLEY_REDIS_URL")
    elif values["redis_url"]:
        faults.append(
            "redis_url: a relay needs PostgreSQL, because only one process can use a SQLite file: "
            f"set PARLEY_DATABASE_URL to {POSTGRESQL_FORM}, or remove the relay"
        )
    elif values["workers"] > 1:
        faults.append(
            "workers: several workers cannot share a SQLite file: "
            f"set PARLEY_REDIS_URL, and PARLEY_DATABASE_URL to {POSTGRESQL_FORM}"
        )


def check_variables(environment: Mapping[str, str], named: Collection[str], faults: list[str]) -> None:
    """Add a fault for each unknown PARLEY_ variable. `named`: variables that the configuration itself refers to."""
    # `parley chat` reads the API key of a caller, which an operator's shell may have set.
    known = [PREFIX + name.upper() for name in ("config", "api_key", *_PARSERS)]
    for variable in sorted(environment):
        if not variable.startswith(PREFIX) or variable in known or variable in named:
            continue
        if not _SERVICE_LINK.fullmatch(variable):
            faults.append(f"{variable}: unknown variable{did_you_mean(variable, known)}")


def _find(
    name: str, document: Mapping[str, Any], environment: Mapping[str, str], *, arguments: Mapping[str, Any]
) -> tuple[str, Any] | None:
    """The label and the value of a scalar. An empty variable counts as unset, except for the addresses that it turns
    off."""
    if arguments.get(name) is not None:
        return "--" + name.replace("_", "-"), arguments[name]
    variable = PREFIX + name.upper()
    if environment.get(variable) or (variable in environment and name in _MAY_BE_OFF):
        return variable, environment[variable]
    return (name, document[name]) if name in document else None


def _address(value: Any) -> Address:
    return Address.parse(_string(value))


def _address_or_off(value: Any) -> Address | None:
    return None if value == "" else Address.parse(_string(value))


def _hosts(value: Any) -> tuple[str, ...]:
    hosts = tuple(host.strip().lower() for host in _string(value).split(","))
    if not all(re.fullmatch(r"[a-z0-9._-]{1,253}", host) for host in hosts):
        raise ValueError("must be names of hosts without ports, with commas between them")
    return hosts


def _database_url(value: Any) -> str:
    return check_database_url(_string(value))


def _redis_url(value: Any) -> str:
    return check_redis_url(_string(value))


def _workers(value: Any) -> int:
    text = "" if isinstance(value, bool) else str(value)
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= MAX_WORKERS:
        raise ValueError(f"must be a whole number from 1 to {MAX_WORKERS}")
    return int(text)


def _switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _WORDS:
        return _WORDS[value.lower()]
    raise ValueError("must be 1 or 0, true or false")


def _encryption_keys(value: Any) -> tuple[str, ...]:
    keys = tuple(key.strip() for key in _string(value).split(","))
    if not all(_is_encryption_key(key) for key in keys):
        raise ValueError("must be keys that `parley encryption-key` makes, with commas between them")
    return keys


def _is_encryption_key(key: str) -> bool:
    try:
        return len(key) == ENCRYPTION_KEY_CHARACTERS and len(base64.b64decode(key, b"-_", validate=True)) == 32
    except ValueError:
        return False


def _log_level(value: Any) -> str:
    return _one_of(value, get_args(LogLevel))


def _log_format(value: Any) -> str:
    return _one_of(value, get_args(LogFormat))


def _one_of(value: Any, words: tuple[str, ...]) -> str:
    word = _string(value).lower()
    if word not in words:
        raise ValueError(f'must be {", ".join(words[:-1])} or {words[-1]} (got "{value}"){did_you_mean(word, words)}')
    return word


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a string")  # noqa: TRY004 - the caller collects ValueError
    return value


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "listen": _address,
    "metrics_listen": _address_or_off,
    "ui_listen": _address_or_off,
    "ui_hosts": _hosts,
    "database_url": _database_url,
    "redis_url": _redis_url,
    "workers": _workers,
    "insecure": _switch,
    "plaintext": _switch,
    "log_level": _log_level,
    "log_format": _log_format,
    "genai_metrics": _switch,
    "encryption_keys": _encryption_keys,
}
SCALARS = tuple(_PARSERS)
_DEFAULTS = {name: Settings.model_fields[name].default for name in SCALARS}
