"""The format of a script for the scripted provider, and of the directive in a user's text that contains one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from parley_server.core.model import FinishReason
from parley_server.errors import ProviderRejected

DIRECTIVE = "/script"
MAX_SCRIPT_CHARACTERS = 4 * 1024 * 1024

Delay = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
PieceCount = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
FaultReason = Literal[
    "PROVIDER_UNAVAILABLE",
    "PROVIDER_RATE_LIMITED",
    "PROVIDER_TIMEOUT",
    "PROVIDER_REJECTED",
    "PROVIDER_UNAUTHENTICATED",
    "PROVIDER_MALFORMED",
    "PROVIDER_TRUNCATED",
    "PROVIDER_CONTEXT_TOO_LARGE",
]
FinishName = Literal["STOP", "MAX_TOKENS", "TOOL_CALLS", "CONTENT_FILTER", "OTHER"]


class Closed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value that refuses unknown fields."""


class ErrorFault(Closed, frozen=True, kw_only=True, tag_field="kind", tag="error"):
    """Fail with an error after this number of pieces (at the end if there are fewer)."""

    after: PieceCount = 0
    reason: FaultReason = "PROVIDER_UNAVAILABLE"
    retry_after_s: Delay | None = None


class StallFault(Closed, frozen=True, kw_only=True, tag_field="kind", tag="stall"):
    """Stall after this number of pieces: send nothing more, and do not end."""

    after: PieceCount = 0


class TruncateFault(Closed, frozen=True, kw_only=True, tag_field="kind", tag="truncate"):
    """Break off after this number of pieces, like a connection that closes within the body."""

    after: PieceCount = 0


Fault = ErrorFault | StallFault | TruncateFault


class PauseStep(Closed, frozen=True, kw_only=True):
    """Wait these seconds, in addition to the pace, after this number of pieces."""

    after: PieceCount
    seconds: Delay


class CallStep(Closed, frozen=True, kw_only=True):
    """A tool call; `arguments` is any JSON value, or a string that is sent unchanged."""

    name: str
    arguments: Any = msgspec.field(default_factory=dict)
    id: str = ""


class Script(Closed, frozen=True, kw_only=True):
    """An answer and its timing: reasoning, then text, then tool calls, in pieces.

    Without `text` and without tool calls, the answer introduces itself and quotes the user. `delay_s` passes between
    two pieces, or 1 / `tokens_per_s` if that is set. Without `finish`, the finish reason follows from the content.
    """

    text: str | None = None
    repeat: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1
    reasoning: str = ""
    tool_calls: tuple[CallStep, ...] = ()
    pieces: Literal["word", "character", "whole"] = "word"
    delay_s: Delay = 0.03
    tokens_per_s: Annotated[float, msgspec.Meta(gt=0, le=1_000_000)] | None = None
    first_token_delay_s: Delay = 0.0
    pauses: tuple[PauseStep, ...] = ()
    fault: Fault | None = None
    finish: FinishName | None = None
    usage: bool = True

    @property
    def pace_s(self) -> float:
        """Delay between two pieces."""
        return 1 / self.tokens_per_s if self.tokens_per_s else self.delay_s

    @property
    def finish_reason(self) -> FinishReason:
        """The finish reason if no limit cuts the answer."""
        if self.finish:
            return FinishReason(self.finish)
        return FinishReason.TOOL_CALLS if self.tool_calls else FinishReason.STOP


def read_script(fields: Mapping[str, Any], base: Script | None = None) -> Script:
    """The script with these fields, and the others of `base`. Raises ValueError with the fault and its place."""
    base_fields = msgspec.to_builtins(base) if base is not None else {}
    script = msgspec.convert({**base_fields, **fields}, Script, str_keys=True)
    if len(script.text or "") * script.repeat > MAX_SCRIPT_CHARACTERS:
        raise ValueError(f"text times repeat is more than {MAX_SCRIPT_CHARACTERS} characters - at `$.repeat`")
    return script


def split_directive(text: str, base: Script) -> tuple[Script, str]:
    """The script of a text that begins with `/script {...}`, and the rest of the text. Without a directive: `base` and
    the whole text. Raises `ProviderRejected` for an invalid directive."""
    body = text.lstrip()
    if not body.startswith(DIRECTIVE) or body[len(DIRECTIVE) :][:1] not in {"", " ", "\n", "\t", "{"}:
        return base, text
    body = body[len(DIRECTIVE) :].lstrip()
    try:
        fields, end = json.JSONDecoder().raw_decode(body)
        return read_script(msgspec.convert(fields, dict[str, Any]), base), body[end:].strip()
    except (ValueError, RecursionError) as error:
        raise ProviderRejected(f"the {DIRECTIVE} directive cannot be read: {error}") from None
