"""Reads the JSON and the parameters of the page's requests. Each fault is 400, with a message that names the field."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from parley.v1 import resources_pb2


def number_of(request: Request, name: str) -> int:
    """Returns a query parameter; 0 without it."""
    value = request.query_params.get(name, "0")
    if not (value.isascii() and value.isdecimal() and len(value) <= 9):
        raise HTTPException(400, f"{name}: must be a number from 0 to 999999999")
    return int(value)


async def body_of(request: Request, *, required: bool = False) -> dict[str, Any]:
    """Returns the JSON object of the body; an empty one without a body, unless it is `required`."""
    data = await request.body()
    if not data and not required:
        return {}
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise HTTPException(400, "The body is not valid JSON.") from None
    if not isinstance(value, dict):
        raise HTTPException(400, "The body must be a JSON object.")
    return value


def text_of(body: dict[str, Any], name: str, *, required: bool = True) -> str:
    """Returns a field of text; without `required`, "" if it is absent."""
    value = body.get(name) or ""
    if not isinstance(value, str) or (required and not value):
        raise HTTPException(400, f"{name}: must be a text" + " that is not empty" * required)
    return value


def list_of(body: dict[str, Any], name: str) -> list[Any]:
    """Returns a field that is a list; an empty one if it is absent."""
    value = body.get(name) or []
    if not isinstance(value, list):
        raise HTTPException(400, f"{name}: must be a list")
    return value


def image_of(value: Any) -> resources_pb2.Image:
    """Returns an image of `{"mime_type", "data"}`, whose data is base64."""
    if not isinstance(value, dict):
        raise HTTPException(400, "images: must be objects with mime_type and data")
    try:
        data = base64.b64decode(text_of(value, "data"), validate=True)
    except (binascii.Error, ValueError):
        raise HTTPException(400, "images: data must be base64") from None
    return resources_pb2.Image(data=data, mime_type=text_of(value, "mime_type"))
