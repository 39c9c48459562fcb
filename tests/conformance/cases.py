"""Loads the cases from YAML. An unknown key or command is an error with its file and line, so that a typing error
cannot remove a check."""

from __future__ import annotations

import base64
import copy
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.conformance.identity import token

FOLDER = Path(__file__).parent / "cases"
PNG = b"\x89PNG\r\n\x1a\n"

CASE_KEYS = {"case", "shows", "server", "wire", "client", "clients", "matrix", "steps"}
SERVER_KEYS = {"kind", "settings", "own", "tenants", "token_tenant"}
OPS: dict[str, set[str]] = {
    "client": {
        "name",
        "address",
        "of",
        "end_user",
        "api_key",
        "backoff",
        "call_timeout_s",
        "silence_s",
        "attempt_timeout_s",
    },
    "close_client": {"name"},
    "stream": {"client", "request", "pull"},
    "resume": {"client", "reply_id", "after_sequence", "reasoning", "heartbeat_s", "pull"},
    "next": {"stream", "count"},
    "abandon": {"stream", "how"},
    "stop": {"stream", "reason"},
    "create": {"client", "request", "wait_s"},
    "poll": {"client", "reply_id", "after_sequence", "wait_s", "gather_s", "reasoning"},
    "polls": {"client", "reply_id", "after_sequence", "wait_s", "gather_s", "reasoning"},
    "get_reply": {"client", "reply_id"},
    "cancel": {"client", "reply_id", "request_id", "conversation_id", "reason"},
    "models": {"client"},
    "quotas": {"client"},
    "admin.set_provider_key": {"client", "provider", "api_key", "tenant", "verify"},
    "admin.provider_keys": {"client"},
    "admin.delete_provider_key": {"client", "provider", "tenant"},
    "admin.usage": {"client", "group_by", "tenant", "end_user", "model", "page_size"},
    "admin.status": {"client"},
    "conversations.create": {"client", "conversation", "messages", "request_id"},
    "conversations.get": {"client", "conversation_id"},
    "conversations.list": {"client", "query", "labels", "page_size"},
    "conversations.update": {"client", "conversation", "fields"},
    "conversations.delete": {"client", "conversation_id", "etag"},
    "conversations.messages": {"client", "conversation_id", "leaf_message_id", "all_branches", "page_size"},
    "conversations.message_pages": {"client", "conversation_id", "leaf_message_id", "all_branches", "page_size"},
    "conversations.image": {"client", "image_id"},
    "many": {"client", "count", "request"},
    "stats": set(),
    "ways": set(),
}
STEPS: dict[str, set[str]] = {
    "do": {"as", "with", "expect"},
    "expect": {"of"},
    "await": {"of", "count"},
    "quiet": {"of"},
    "first_event": {"of"},
    "break": {"before", "call", "nth", "times", "for_s", "code", "reason", "held"},
    "wire": {"to", "for_s"},
    "server": {"replica"},
    "storage": set(),
    "identity": set(),
    "upstream": set(),
    "rewrite": set(),
    "calls": {"within_s"},
    "stored": {"reply"},
    "provider_calls": set(),
    "received": set(),
    "remember": set(),
    "nothing_left": {"since"},
    "memory": {"since"},
    "each_way": {"steps"},
    "times": {"steps"},
    "pause": set(),
    "let": set(),
}


class CaseError(Exception):
    """A case is malformed; the message has its file, its line and the fault."""


class Mapped(dict[str, Any]):
    """A mapping of a YAML file; `where` is its file and line."""

    where: str = ""


@dataclass(frozen=True)
class Case:
    """One case with one combination of the values of its matrix."""

    name: str
    variant: str
    shows: str
    server: dict[str, Any]
    wire: bool
    clients: dict[str, dict[str, Any]]
    steps: list[Mapped]
    file: str = field(default="", compare=False)

    @property
    def id(self) -> str:
        return f"{self.name}[{self.variant}]" if self.variant else self.name

    @property
    def leaves_streams(self) -> bool:
        """Whether the case has steps for each way of leaving a stream."""
        return any("each_way" in step for step in self.steps)


def load_cases(folder: Path = FOLDER) -> list[Case]:
    """All cases of a folder, in the order of its files. Raises `CaseError`, also for a repeated name."""
    cases = [case for path in sorted(folder.glob("*.yaml")) for case in _cases_of(path)]
    seen: dict[str, str] = {}
    for case in cases:
        if case.id in seen:
            raise CaseError(f"{case.file}: {case.id} stands in {seen[case.id]}, too")
        seen[case.id] = case.file
    return cases


def _cases_of(path: Path) -> Iterator[Case]:
    documents = _load(path)
    if not isinstance(documents, list):
        raise CaseError(f"{path.name}:1: a list of cases is meant")
    for document in documents:
        _check_keys(document, CASE_KEYS, path.name)
        for key in ("case", "shows", "steps"):
            if key not in document:
                raise CaseError(f"{document.where}: a case needs {key!r}")
        yield from _variants(document)


def _variants(document: Mapped) -> Iterator[Case]:
    matrix: dict[str, list[Any]] = document.get("matrix", {})
    for values in itertools.product(*matrix.values()):
        names = dict(zip(matrix, values, strict=True))
        resolved = _fill(document, names)
        _check(resolved)
        clients = resolved.get("clients", {"c": resolved.get("client", {})})
        yield Case(
            name=document["case"].replace(" ", "-"),
            variant="-".join(_label(value) for value in values),
            shows=resolved["shows"],
            server=dict(resolved.get("server", {})),
            wire=resolved.get("wire", False),
            clients={name: dict(fields or {}) for name, fields in clients.items()},
            steps=resolved["steps"],
            file=document.where,
        )


def _label(value: Any) -> str:
    if isinstance(value, Mapping):
        value = value["name"]
    return str(value).replace(" ", "-")


def _check(case: Mapped) -> None:
    if "server" in case:
        _check_keys(case["server"], SERVER_KEYS, case.where)
    for fields in (case.get("clients") or {"c": case.get("client") or {}}).values():
        if fields:
            _check_keys(fields, OPS["client"] - {"name"}, case.where)
    for step in case["steps"]:
        _check_step(step, case.where)


def _check_step(step: Any, where: str) -> None:
    if not isinstance(step, Mapped):
        raise CaseError(f"{where}: a step is a mapping, not {step!r}")
    verbs = [key for key in step if key in STEPS and not any(key in STEPS[other] for other in step if other in STEPS)]
    if len(verbs) != 1:
        raise CaseError(f"{step.where}: a step has exactly one of {', '.join(STEPS)}; here are {sorted(step)}")
    (verb,) = verbs
    _check_keys(step, STEPS[verb] | {verb}, step.where)
    if verb == "do":
        if step["do"] not in OPS:
            raise CaseError(f"{step.where}: no command {step['do']!r}")
        if step.get("with"):
            _check_keys(step["with"], OPS[step["do"]], step.where)
    for inner in step.get("steps", ()):
        _check_step(inner, step.where)


def _check_keys(mapping: Any, keys: set[str], where: str) -> None:
    if not isinstance(mapping, Mapped):
        raise CaseError(f"{where}: a mapping is meant, not {mapping!r}")
    for key in mapping:
        if key not in keys:
            raise CaseError(f"{mapping.where}: unknown key {key!r}; known are {', '.join(sorted(keys))}")


# --- names of the matrix, and makers


def _repeat(arguments: Any) -> str:
    text, count, *end = arguments
    return str(text) * int(count) + "".join(end)


def _png(size: Any) -> str:
    return base64.b64encode(PNG + bytes(int(size) - len(PNG))).decode()


def _script(fields: Any) -> str:
    return "/script " + json.dumps(fields, ensure_ascii=False)


MAKERS: dict[str, Callable[[Any], str]] = {"$repeat": _repeat, "$png": _png, "$script": _script, "$token": token}
_NAME = re.compile(r"\$([a-z_]+(?:\.[a-z_]+)*)")


def _fill(value: Any, names: Mapping[str, Any]) -> Any:
    """Replace each `$name` of the matrix by its value; a string that consists of a `$name` becomes the value itself.
    Then replace each maker, such as `{$png: 100}`, by the text that it makes."""
    if isinstance(value, str):
        whole = _NAME.fullmatch(value)
        if whole and (found := _look_up(whole[1], names)) is not None:
            return _fill(copy.deepcopy(found[0]), names)
        return _NAME.sub(lambda match: _text_of(match, names), value)
    if isinstance(value, list):
        return [_fill(each, names) for each in value]
    if isinstance(value, Mapping):
        if len(value) == 1 and (maker := MAKERS.get(next(iter(value)))) is not None:
            return maker(_fill(next(iter(value.values())), names))
        made = Mapped({key: _fill(each, names) for key, each in value.items()})
        made.where = getattr(value, "where", "")
        return made
    return value


def _text_of(match: re.Match[str], names: Mapping[str, Any]) -> str:
    found = _look_up(match[1], names)
    return match[0] if found is None else str(found[0])


def _look_up(path: str, names: Mapping[str, Any]) -> tuple[Any] | None:
    """The value of a name in a tuple, since it may be None; None for a name that the run binds later."""
    first, *rest = path.split(".")
    if first not in names:
        return None
    value = names[first]
    for each in rest:
        if each not in value:
            raise CaseError(f"the matrix has no {path} for {value.get('name')!r}")
        value = value[each]
    return (value,)


# --- YAML with lines


class _Loader(yaml.SafeLoader):
    """Keeps lines, refuses repeated keys, and reads `on`, `off`, `yes` and dates as text."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> Mapped:
    made = Mapped()
    made.where = f"{Path(loader.name).name}:{node.start_mark.line + 1}"
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in made:
            raise CaseError(f"{made.where}: {key!r} stands twice")
        made[key] = loader.construct_object(value_node, deep=True)
    return made


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))


def _load(path: Path) -> Any:
    with path.open(encoding="utf-8") as file:
        loader = _Loader(file)
        try:
            return loader.get_single_data()
        except yaml.YAMLError as error:
            raise CaseError(f"{path.name}: {error}") from error
        finally:
            loader.dispose()
