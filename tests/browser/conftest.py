"""Chromium, and the products whose page it opens.

Playwright's synchronous interface occupies the event loop of its thread, so that it ends with each module: other tests
of the process are asynchronous.
"""

from __future__ import annotations

import contextlib

import pytest
from playwright.sync_api import sync_playwright

from tests.browser.chat import Chat
from tests.needs import CLIENTS, missing
from tests.products.backends import EXAMPLES, TYPEWRITER, started
from tests.tools import tool

WIDE = {"width": 1280, "height": 800}


@pytest.fixture(scope="module")
def chromium():
    """The machine's Chromium."""
    built = (EXAMPLES / "page/dist/index.html").exists()
    if not built:
        missing("the build of the chat page", CLIENTS)
    with sync_playwright() as playwright:
        # Containers run tests as root, for whom Chromium has no sandbox.
        browser = playwright.chromium.launch(executable_path=tool("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def context(chromium):
    """A browser profile of its own."""
    with contextlib.closing(chromium.new_context(viewport=WIDE, reduced_motion="reduce")) as context:
        context.set_default_timeout(20_000)
        yield context


@pytest.fixture(scope="module")
def ui(tmp_path_factory):
    """`parley serve --ui` without credentials. Tests that stop it start it again."""
    with started("ui", tmp_path_factory.mktemp("ui"), toml=TYPEWRITER, credentials=False) as product:
        yield product


@pytest.fixture
def chat(context, ui):
    """The page of `ui`, with a new conversation."""
    chat = Chat(context, ui.url).open()
    yield chat
    chat.close()
