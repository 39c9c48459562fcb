"""Decides what a model can be given: settings that are hints are left out, input that has a meaning is refused."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from parley_server.core.events import utf8_size
from parley_server.core.message_checks import texts_of
from parley_server.core.model import ImagePart, Message, Model, PromptMessage, Sampling, ToolCallPart
from parley_server.core.requests import ReplyPayload
from parley_server.errors import ContextTooLarge, UnsupportedInput

BYTES_PER_TOKEN = 16
"""More than a token of any text has, so that only input that certainly does not fit is refused."""
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""The levels of reasoning effort of all vendors, lowest first."""
_HINTS = ("temperature", "top_p", "seed")


def taken_settings(model: Model, asked: Sampling) -> tuple[Sampling, tuple[str, ...]]:
    """The settings for this model, and the names of those that it does not take as they are.

    The output limit is the request's, bounded by the model's; else the one that is configured to be sent."""
    takes = {"temperature": model.sampling, "top_p": model.sampling, "seed": model.sampling and model.seed}
    ignored = [name for name in _HINTS if not takes[name] and getattr(asked, name) is not None]
    effort = _nearest(asked.reasoning_effort, model.efforts)
    sampling = msgspec.structs.replace(
        asked, **dict.fromkeys(ignored), reasoning_effort=effort, max_output_tokens=_output_limit(model, asked)
    )
    if effort != asked.reasoning_effort:
        ignored.append("reasoning_effort")
    return sampling, tuple(ignored)


def check_request_fits(model: Model, payload: ReplyPayload) -> None:
    """Raises `UnsupportedInput` or `ContextTooLarge` if the model cannot accept this request."""
    _check_images(model, payload.messages)
    if payload.tools and not model.tools:
        raise _unsupported(model, "takes no tools", "tools", "must be empty")
    if payload.json_schema and not model.json_schema:
        raise _unsupported(model, "takes no JSON schema", "json_schema", "must be empty")
    if not model.dotted_names and (names := [tool.name for tool in payload.tools if "." in tool.name]):
        raise _unsupported(model, 'takes no "." in names of tools', "tools", f"{names[0]} must have no dot")
    if model.max_stop is not None and len(payload.sampling.stop) > model.max_stop:
        raise _unsupported(
            model, f"takes at most {model.max_stop} stop texts", "sampling.stop", f"must have at most {model.max_stop}"
        )
    _check_size(model, payload.messages)


def check_shown(model: Model, shown: Iterable[PromptMessage]) -> None:
    """Raises `UnsupportedInput` if the history has something that the model cannot be shown."""
    takes_all = model.images and model.image_urls and model.dotted_names
    for part in () if takes_all else [part for message in shown for part in message.parts]:
        problem = ""
        if isinstance(part, ImagePart) and not model.images:
            problem = "takes no images, and the conversation shows one"
        elif isinstance(part, ImagePart) and part.url and not model.image_urls:
            problem = "takes no image by URL, and the conversation shows one"
        elif isinstance(part, ToolCallPart) and "." in part.name and not model.dotted_names:
            problem = 'takes no "." in names of tools, and the conversation has one'
        if problem:
            raise _unsupported(model, problem, "model", problem)


def _check_images(model: Model, messages: tuple[Message, ...]) -> None:
    images = [part for message in messages for part in message.parts if isinstance(part, ImagePart)]
    if images and not model.images:
        raise _unsupported(model, "takes no images", "input", "holds an image")
    if not model.image_urls and any(image.url for image in images):
        raise _unsupported(model, "takes no image by URL", "input", "names an image by its URL: send its bytes")


def _check_size(model: Model, messages: tuple[Message, ...]) -> None:
    size = sum(utf8_size(text) for message in messages for text in texts_of(message))
    if model.context_tokens and size > model.context_tokens * BYTES_PER_TOKEN:
        raise ContextTooLarge(
            f"the input alone is larger than the {model.context_tokens} tokens of model {model.alias!r}",
            metadata={"limit": f"{model.context_tokens} tokens"},
        )


def _output_limit(model: Model, asked: Sampling) -> int | None:
    if asked.max_output_tokens is None:
        return model.output_tokens or None
    return min(asked.max_output_tokens, model.max_output_tokens or asked.max_output_tokens)


def _nearest(effort: str, levels: tuple[str, ...]) -> str:
    """The model's level that is nearest to the requested one, the lower of two; empty if there is none."""
    known = [level for level in levels if level in EFFORTS]
    if not effort or not known or effort in levels:
        return effort
    if effort not in EFFORTS:
        return ""
    wanted = EFFORTS.index(effort)
    return min(known, key=lambda level: (abs(EFFORTS.index(level) - wanted), EFFORTS.index(level)))


def _unsupported(model: Model, what: str, field: str, problem: str) -> UnsupportedInput:
    return UnsupportedInput(f"model {model.alias!r} {what}", violations=((field, problem),))
