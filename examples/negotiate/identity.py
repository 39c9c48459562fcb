"""Finds the end user of a request: the `sub` of a JWT that is signed with `CHAT_JWT_KEY` (HS256)."""

from __future__ import annotations

import os
import re
import time
from typing import Any, Final

import jwt
from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, Field

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_LEAST_KEY_BYTES: Final = 32
_DEMO_TOKEN_S: Final = 12 * 3600

DEMO_LOGIN: Final = os.environ.get("CHAT_DEMO_LOGIN") == "on"
_KEY: Final = os.environ.get("CHAT_JWT_KEY", "")
if len(_KEY.encode()) < _LEAST_KEY_BYTES:
    raise SystemExit(f"CHAT_JWT_KEY: must have at least {_LEAST_KEY_BYTES} bytes; `openssl rand -hex 32` makes one")

router = APIRouter()


def end_user(request: Request) -> str:
    """Returns the name of the user. Raises HTTPException 401 without a valid token."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    try:
        claims: dict[str, Any] = jwt.decode(token, _KEY, algorithms=["HS256"], options={"require": ["exp", "sub"]})
    except jwt.InvalidTokenError:
        claims = {"sub": ""}
    if scheme.lower() != "bearer" or not _NAME.fullmatch(claims["sub"]):
        raise HTTPException(401, headers={"WWW-Authenticate": "Bearer"})
    return str(claims["sub"])


class Login(BaseModel):
    """The name of a person who tries the page."""

    name: str = Field(pattern=f"^{_NAME.pattern}$")


@router.post("/api/login", include_in_schema=DEMO_LOGIN)
async def login(who: Login) -> dict[str, Any]:
    """Returns a token for any name, without a password, so that the page can be tried. Off by default."""
    if not DEMO_LOGIN:
        raise HTTPException(404)
    claims = {"sub": who.name, "exp": int(time.time()) + _DEMO_TOKEN_S}
    return {"token": jwt.encode(claims, _KEY, "HS256"), "expires_in": _DEMO_TOKEN_S}
