"""The errors of the clients: a class for each reason of the contract, below a class for each status code."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from tools.clients.comments import Comments

ROOT = "ParleyError"
_PREFIX = "ERROR_REASON_"
# The first of the reasons that a reply fails with, instead of a call, has this above it.
_AFTER_HEADERS = "After headers:"
# `CODE: text` or `CODE, with details: text`.
_COMMENT = re.compile(r"([A-Z_]+)(?:, with [^:]*)?: (.+)", re.DOTALL)


@dataclass(frozen=True)
class Known:
    """What an error keeps of the reply: a field's name, its type and what it is."""

    name: str
    type: str
    doc: str


@dataclass(frozen=True)
class Error:
    """One class. `codes` lead to it where a reason does not, `note` is its line in the tree."""

    name: str
    doc: str = ""
    note: str = ""
    parent: str = ROOT
    codes: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    known: tuple[Known, ...] = ()
    metadata: tuple[Known, ...] = ()
    has_children: bool = False


_REPLY_ID = Known("reply_id", "string", "The reply.")

# Those that stand for a status code, and those that come from no reason; in the order of the tree.
_FIXED = (
    Error("InvalidRequest", codes=("INVALID_ARGUMENT",), note="the request is wrong: fix it"),
    Error("Unauthenticated", codes=("UNAUTHENTICATED",)),
    Error("Forbidden", codes=("PERMISSION_DENIED",)),
    Error("NotFound", "No such thing, or somebody else's.", codes=("NOT_FOUND",)),
    Error("AlreadyExists", "The key or id is taken.", codes=("ALREADY_EXISTS",)),
    Error(
        "ReplyInProgress",
        note="`reply_id` is the one that runs",
        metadata=(Known("reply_id", "string", "The reply that runs; empty where the server did not say."),),
    ),
    Error("EtagMismatch", note="read again, then change"),
    Error("LimitExceeded", "A limit of the caller is reached.", "wait `retry_after`", codes=("RESOURCE_EXHAUSTED",)),
    Error("NotConfigured", codes=("FAILED_PRECONDITION",), note="the server lacks what the call needs"),
    Error(
        "Unavailable",
        "No server could be reached, or it took no calls, for as long as the client's backoff allowed.",
        "no answer from a server, though the client tried again",
        codes=("UNAVAILABLE", "CANCELLED"),
    ),
    Error(
        "ConnectionLost",
        "A reply could no longer be followed; it may still be running. To resume it after `sequence` goes on where "
        "`text` ends.",
        "the reply was accepted, then could not be followed: resume it later",
        parent="Unavailable",
        known=(
            Known("reply_id", "string", "The reply, to resume."),
            Known("sequence", "int", "The cursor, to resume after."),
            Known("text", "string", "The answer as far as it was read."),
        ),
    ),
    Error(
        "DeadlineExceeded",
        "The call took longer than its time limit.",
        "the call's own time limit",
        codes=("DEADLINE_EXCEEDED",),
    ),
    Error(
        "ReplyFailed",
        "The reply was accepted and then failed. Where `retryable`, a new request with `replace_message_id` set to "
        "`message_id` and no text tries again without repeating the user's message.",
        "the reply was accepted, then failed: `text` is what it had written",
        known=(
            Known("text", "string", "What it had written."),
            _REPLY_ID,
            Known("message_id", "string", "The message that would have held the answer."),
            Known("usage", "Usage", "What the provider had counted, or an estimate."),
        ),
    ),
    Error("InternalError", codes=("INTERNAL",), note="a defect of the server; metadata `call_id` finds it in its logs"),
)
_NAMES = {"INTERNAL": "InternalError"}


def read_errors(file: FileDescriptorProto) -> list[Error]:
    """The classes that `errors.proto` asks for, parents first, children after their parent.

    Raises ValueError for a reason whose comment does not say its status code.
    """
    comments = Comments(file)
    after_headers = False
    fixed = {each.name: each for each in _FIXED}
    found: dict[str, Error] = dict(fixed)
    for index, value in enumerate(file.enum_type[0].value):
        path = (5, 0, 2, index)
        after_headers = after_headers or any(each.startswith(_AFTER_HEADERS) for each in comments.before(path))
        if value.number == 0:
            continue
        reason = value.name.removeprefix(_PREFIX)
        said = _COMMENT.fullmatch(comments.of(path))
        if said is None and not after_headers:
            raise ValueError(f"{value.name}: its comment begins with no status code")
        name = _class_name(reason) if said else "ReplyFailed"
        before = found.get(name) or Error(name, parent=_parent(said.group(1) if said else "", name))
        found[name] = _with_reason(before, reason, said.group(2) if said else "")
    return _in_order(found.values())


def tree(errors: Iterable[Error]) -> list[tuple[str, str]]:
    """The lines of a drawing: names, and the note beside them. Siblings without a note share a line."""
    errors = list(errors)
    lines: list[tuple[str, str]] = []
    for group in _shared([each for each in errors if each.parent == ROOT]):
        lines.append((f"├── {', '.join(each.name for each in group)}", group[-1].note))
        children = _shared([each for each in errors if each.parent == group[-1].name])
        for number, line in enumerate(children, 1):
            branch = "└──" if number == len(children) else "├──"
            lines.append((f"│   {branch} {', '.join(each.name for each in line)}", line[-1].note))
    last = max(number for number, (names, _) in enumerate(lines) if names.startswith("├"))
    lines[last] = (lines[last][0].replace("├", "└"), lines[last][1])
    return lines


def _shared(siblings: list[Error]) -> list[list[Error]]:
    lines: list[list[Error]] = []
    for each in siblings:
        before = lines[-1][-1] if lines else None
        if before and not (each.note or before.note or each.has_children or before.has_children):
            lines[-1].append(each)
        else:
            lines.append([each])
    return lines


def _class_name(reason: str) -> str:
    if reason in _NAMES:
        return _NAMES[reason]
    return "".join(word.capitalize() for word in reason.split("_"))


def _parent(code: str, name: str) -> str:
    return next((each.name for each in _FIXED if code in each.codes and each.name != name), ROOT)


def _with_reason(error: Error, reason: str, text: str) -> Error:
    return replace(error, doc=error.doc or text[:1].upper() + text[1:], reasons=(*error.reasons, reason))


def _in_order(errors: Iterable[Error]) -> list[Error]:
    errors = list(errors)
    ordered = []
    for each in errors:
        if each.parent != ROOT:
            continue
        children = [child for child in errors if child.parent == each.name]
        children.sort(key=lambda child: bool(child.note))
        ordered += [replace(each, has_children=bool(children)), *children]
    return ordered
