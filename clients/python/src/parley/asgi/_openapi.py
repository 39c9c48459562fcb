"""Parts of FastAPI's OpenAPI document: refusals, and the events of a stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parley.asgi._refusal import family

Responses = dict[int | str, dict[str, Any]]


def openapi_responses(*statuses: int) -> Responses:
    """Returns the `responses` of a FastAPI application or route: these statuses, and `default`."""
    fields = {"message": "string", "error": "string", "code": "string", "retryable": "boolean"}
    content = {"application/json": {"schema": {"title": "Refusal", **_object(fields)}}}
    named: Responses = {status: {"description": family(status)[1], "content": content} for status in statuses}
    return {**named, "default": {"description": "The request was refused.", "content": content}}


def openapi_events(**events: Mapping[str, str]) -> dict[str, Any]:
    """Returns the response of a stream: `openapi_events(token={"content": "string"}, done={})`.

    Each argument is a type of event, with the JSON types of its other fields.
    """
    kinds = []
    for kind, fields in events.items():
        schema = _object({"type": "string", **fields})
        schema["properties"]["type"] = {"const": kind}
        kinds.append(schema)
    return {
        "description": "Server-sent events: each `data:` line is one JSON object.",
        "content": {"text/event-stream": {"schema": {"oneOf": kinds}}},
    }


def _object(fields: Mapping[str, str]) -> dict[str, Any]:
    properties = {name: {"type": kind} for name, kind in fields.items()}
    return {"type": "object", "properties": properties, "required": list(properties)}
