"""The chat page of `parley serve --ui`, on an HTTP port beside the gRPC port.

It is a client: it calls gRPC through `parley.Client`, and reads neither the core nor the store. `page/` is the build of
`examples/page`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from parley_server.errors import NotConfigured
from parley_server.settings import Settings

if TYPE_CHECKING:
    from parley_server.ui.server import PageServer


def page_server(settings: Settings) -> PageServer | None:
    """The server of the page; None if `ui_listen` is not set. Raises `NotConfigured` without the packages of the
    extra."""
    if settings.ui_listen is None:
        return None
    try:
        from parley_server.ui.server import PageServer  # servers without the page need not have the packages
    except ModuleNotFoundError as error:
        needed = "pip install 'parley-server[ui]'"
        raise NotConfigured(f"the chat page needs the package {error.name}, which {needed} adds") from error
    return PageServer(settings.ui_listen, hosts=settings.ui_hosts, asks_key=not settings.is_open)
