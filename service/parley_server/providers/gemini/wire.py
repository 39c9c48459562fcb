"""One chunk of a generateContent stream: structs for the fast path, and a lenient decoder for unusual chunks.

The structs have only the fields in use. Fields whose form could differ are `Any`, so that one unusual value does not
fail an answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from parley_server.providers.reading.json_values import json_of, json_text
from parley_server.providers.reading.response_name import NamedEvent, name_reader
from parley_server.providers.reading.tool_calls import Piece, text_of_field

Json = dict[str, Any]

_EMPTY = re.compile(r'\{\s*"text"\s*:\s*""\s*\}')


class FunctionCall(msgspec.Struct, gc=False):
    """A tool call, with its arguments as JSON. `partialArgs` and `willContinue` announce arguments in pieces."""

    id: Any = None
    name: Any = None
    args: msgspec.Raw = msgspec.Raw()
    partialArgs: Any = None  # noqa: N815 - the names are the vendor's
    willContinue: Any = None  # noqa: N815


class Part(msgspec.Struct, gc=False):
    """A piece of the answer. `thought`: its text is reasoning."""

    text: Any = None
    thought: Any = None
    thoughtSignature: Any = None  # noqa: N815
    functionCall: FunctionCall | None = None  # noqa: N815


class Content(msgspec.Struct, gc=False):
    """The parts of a candidate that a chunk adds."""

    parts: list[Part] | None = None
    role: Any = None


class Candidate(msgspec.Struct, gc=False):
    """One of the answers."""

    content: Content | None = None
    finishReason: Any = None  # noqa: N815
    index: Any = 0


class Counts(msgspec.Struct, gc=False):
    """The token counts of the whole answer so far."""

    promptTokenCount: Any = None  # noqa: N815
    toolUsePromptTokenCount: Any = None  # noqa: N815
    cachedContentTokenCount: Any = None  # noqa: N815
    candidatesTokenCount: Any = None  # noqa: N815
    thoughtsTokenCount: Any = None  # noqa: N815
    totalTokenCount: Any = None  # noqa: N815


class Chunk(msgspec.Struct, gc=False):
    """One event of the stream."""

    candidates: list[Candidate] | None = None
    usageMetadata: Counts | None = None  # noqa: N815
    promptFeedback: Any = None  # noqa: N815
    error: Any = None


decode: Callable[[bytes], Chunk] = msgspec.json.Decoder(Chunk).decode
"""Decodes an event. Raises ValueError; `decode_loosely` may still read the event then."""


class _NamedChunk(NamedEvent):
    id: Any = msgspec.field(default=None, name="responseId")
    model: Any = msgspec.field(default=None, name="modelVersion")


name_in = name_reader(_NamedChunk)
"""The name of the answer in a chunk. Every chunk repeats it, so that it is read from one chunk alone."""


class _RawContent(msgspec.Struct, gc=False):
    parts: list[msgspec.Raw] | None = None


class _RawCandidate(msgspec.Struct, gc=False):
    content: _RawContent | None = None
    index: Any = 0


class _RawChunk(msgspec.Struct, gc=False):
    candidates: list[_RawCandidate] | None = None


_decode_raw = msgspec.json.Decoder(_RawChunk).decode


def decode_loosely(event: bytes) -> list[Chunk]:
    """The chunks of an event with unusual types, lone surrogates or invalid UTF-8, or of a list of chunks, which
    servers send that ignore `alt=sse`. Empty if the event is anything else."""
    value = json_of(event)
    values = value if isinstance(value, list) else [value]
    return [_chunk(value) for value in values] if all(isinstance(each, dict) for each in values) else []


def raw_parts(event: bytes) -> list[str]:
    """The parts of the first candidate in an event, as the vendor sent them, but without lone surrogates and invalid
    UTF-8. A part that is only an empty text is left out, because the vendor refuses it in a request."""
    try:
        candidates = _decode_raw(event).candidates or []
        contents = [each.content for each in candidates if is_first(each.index) and each.content is not None]
        parts = [bytes(part).decode() for content in contents for part in content.parts or ()]
    except (ValueError, RecursionError):
        parts = [json_text(part) for part in _loose_parts(event)]
    return [part for part in parts if not _EMPTY.fullmatch(part)]


def is_first(index: object) -> bool:
    """Whether the index of a candidate, of any type, is that of the first one."""
    return not index or index == "0"


def piece_of(call: FunctionCall, number: int) -> Piece:
    """The whole call with this number in the answer, as a piece."""
    arguments = bytes(call.args).decode("utf-8", "replace")
    return Piece(
        key=number,
        id=text_of_field(call.id),
        name=text_of_field(call.name),
        arguments="" if arguments == "null" else arguments,
    )


def _loose_parts(event: bytes) -> list[Any]:
    value = json_of(event)
    candidates = _objects(value.get("candidates")) if isinstance(value, dict) else []
    contents = [_object(each.get("content")) for each in candidates if is_first(each.get("index"))]
    return [part for content in contents for part in _objects(content.get("parts"))]


def _chunk(value: Json) -> Chunk:
    counts = value.get("usageMetadata")
    candidates = value.get("candidates")
    return Chunk(
        candidates=None if candidates is None else [_candidate(each) for each in _objects(candidates)],
        usageMetadata=Counts(**_fields_of(Counts, counts)) if isinstance(counts, dict) else None,
        promptFeedback=value.get("promptFeedback"),
        error=value.get("error"),
    )


def _candidate(value: Json) -> Candidate:
    content = value.get("content")
    found = None
    if isinstance(content, dict):
        parts = content.get("parts")
        found = Content(
            parts=None if parts is None else [_part(each) for each in _objects(parts)], role=content.get("role")
        )
    return Candidate(content=found, finishReason=value.get("finishReason"), index=value.get("index"))


def _part(value: Json) -> Part:
    call = value.get("functionCall")
    fields = _fields_of(Part, value) | {"functionCall": None}
    if isinstance(call, dict):
        args = call.get("args")
        raw = msgspec.Raw(b"" if args is None else json_text(args).encode())
        fields["functionCall"] = FunctionCall(**(_fields_of(FunctionCall, call) | {"args": raw}))
    return Part(**fields)


def _fields_of(struct: type[msgspec.Struct], value: Json) -> Json:
    return {name: value[name] for name in struct.__struct_fields__ if name in value}


def _objects(value: object) -> list[Json]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _object(value: object) -> Json:
    return value if isinstance(value, dict) else {}
