"""Ids that sort by time and cannot be guessed."""

from __future__ import annotations

import base64
import secrets


def new_id(now_us: int) -> str:
    """26 characters of 0-9 and a-v: 48 bits of milliseconds, then 80 random bits."""
    raw = (now_us // 1000).to_bytes(6, "big") + secrets.token_bytes(10)
    return base64.b32hexencode(raw).rstrip(b"=").decode().lower()
