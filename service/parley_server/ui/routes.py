"""The routes of the chat page: its files, and the HTTP interface that it calls."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import parley
from parley.asgi import LimitBody, PageConfig, exception_handlers, page_files, page_routes
from starlette.applications import Starlette
from starlette.middleware import Middleware

PAGE: Final = Path(__file__).with_name("page")
MAX_BODY_BYTES: Final = 6 * 1024 * 1024
"""Images of 3 MiB in base64, and 2 MiB of text: what Parley accepts by default."""


def application(client: parley.Client, *, asks_key: bool) -> Starlette:
    """The page and its routes, which call Parley through `client`."""
    config = PageConfig(wire="page", title="Parley", login="api_key" if asks_key else "none", images=True)
    return Starlette(
        routes=[*page_routes(lambda _: client, config, sends=True), *page_files(PAGE)],
        middleware=[Middleware(LimitBody, max_bytes=MAX_BODY_BYTES)],
        exception_handlers=exception_handlers(browser_credential=True),
    )
