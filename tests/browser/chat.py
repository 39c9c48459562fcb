"""Drives the chat page in Chromium as a person does: by what is on the screen, and by its accessible names."""

from __future__ import annotations

import json
import os
import re
import struct
import time
import zlib
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, ConsoleMessage, Locator, Page, expect

from tests.tools import ROOT

SCREENSHOTS = ROOT / "build/screenshots"
SMALLEST_TARGET_PX = 44
PATIENCE_MS = 20_000
ANSWER_MS = 40_000
expect.set_options(timeout=PATIENCE_MS)
_TARGETS = "button, select, a[href]:not(.markdown a), [role=switch], textarea"
# What Chromium itself reports about requests that fail, as they do in tests of outages and refusals.
_OF_REQUESTS = re.compile(r"Failed to load resource|net::ERR_")

_SMALL_TARGETS = """(elements, least) => elements
  .filter((e) => e.checkVisibility({ visibilityProperty: true, opacityProperty: true }) && !e.closest('[inert]'))
  .filter((e) => !e.matches('.offscreen'))
  .map((e) => [e, (e.matches('[role=switch]') ? e.closest('label') : e).getBoundingClientRect()])
  .filter(([, box]) => box.width < least || box.height < least)
  .map(([e, box]) => `${e.outerHTML.slice(0, 80)}: ${box.width} x ${box.height}`)"""


def script(text: str = "", /, **fields: Any) -> str:
    """A question that the scripted model answers with `text`; `fields` are options of its script."""
    return "/script " + json.dumps({**({"text": text} if text else {}), **fields})


def words(count: int) -> str:
    """A text whose words differ, so that one that is missing or repeated is found."""
    return " ".join(f"word{number}" for number in range(count))


class Chat:
    """The page in one tab. `close` fails for errors that the page has reported to the console."""

    def __init__(self, context: BrowserContext, url: str, *, page: Page | None = None) -> None:
        self.context = context
        self.url = url
        self.errors: list[str] = []
        self.posts: list[str] = []
        self.page = page or context.new_page()
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: request.method == "POST" and self.posts.append(request.url))

    def open(self, path: str = "/") -> Chat:
        """Go to a path and wait for the text area."""
        self.page.goto(self.url + path)
        expect(self.area).to_be_visible()
        return self

    def sign_in(self, entry: str) -> Chat:
        """Fill in the login screen."""
        self.page.goto(self.url)
        self.page.locator("#entry").fill(entry)
        self.page.get_by_role("button", name="Sign in").click()
        expect(self.area).to_be_visible()
        return self

    def second(self) -> Chat:
        """The same address in another tab, with the same login."""
        storage = self.page.evaluate("JSON.stringify(sessionStorage)")
        tab = Chat(self.context, self.url)
        tab.page.add_init_script(f"Object.assign(sessionStorage, {storage})")
        tab.page.goto(self.page.url)
        expect(tab.area).to_be_visible()
        return tab

    def close(self) -> None:
        """Close the tab."""
        self.page.close()
        assert self.errors == []

    @property
    def area(self) -> Locator:
        """The text area."""
        return self.page.get_by_role("textbox", name="Message")

    @property
    def questions(self) -> Locator:
        """The bubbles of the user."""
        return self.page.get_by_role("article", name="You")

    @property
    def answers(self) -> Locator:
        """The bubbles of the model, with their footers."""
        return self.page.get_by_role("article", name="Answer")

    @property
    def text(self) -> Locator:
        """The text of the last answer."""
        return self.answers.last.locator(".markdown")

    def button(self, name: str) -> Locator:
        """A button by its whole name."""
        return self.page.get_by_role("button", name=name, exact=True)

    def ask(self, text: str) -> None:
        """Type a question and send it by Enter."""
        self.area.fill(text)
        self.area.press("Enter")

    def done(self) -> None:
        """Wait until no answer is written."""
        expect(self.button("Send")).to_be_visible(timeout=ANSWER_MS)

    def until(self, expression: str) -> None:
        """Wait until a JavaScript expression is true. (`wait_for_function` needs `eval`, which the page forbids.)"""
        deadline = time.monotonic() + ANSWER_MS / 1000
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, expression
            self.page.wait_for_timeout(50)

    def answered(self, text: str) -> None:
        """Wait until the last answer is complete and has this text."""
        self.done()
        expect(self.text).to_have_text(text)

    def stopped(self) -> str:
        """Stop the answer, and return what was written of `words`, without a gap or a repetition."""
        self.button("Stop").click()
        self.done()
        self.seen("Stopped.")
        text = self.text.inner_text()
        assert text == words(len(text.split()))
        return text

    def seen(self, sentence: str | re.Pattern[str]) -> None:
        """Wait for words on the page."""
        expect(self.page.get_by_role("log")).to_contain_text(sentence, timeout=ANSWER_MS)

    def shot(self, name: str) -> None:
        """Keep a picture of the page in `build/screenshots`."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png", animations="disabled")

    def check_layout(self) -> None:
        """Nothing is wider than the window, and everything that can be pressed is large enough for a finger."""
        width = self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert width <= 0, f"the page is {width} px too wide"
        overflow = self.page.evaluate("(e => e.scrollWidth - e.clientWidth)(document.querySelector('.scroller'))")
        assert overflow <= 0, f"the messages are {overflow} px too wide"
        small = self.page.eval_on_selector_all(_TARGETS, _SMALL_TARGETS, SMALLEST_TARGET_PX)
        assert small == []

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"} and not _OF_REQUESTS.search(message.text):
            self.errors.append(message.text)


def picture(folder: Path, *, side: int) -> Path:
    """A PNG of noise, which no codec makes small."""
    rows = b"".join(b"\x00" + os.urandom(3 * side) for _ in range(side))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    path = folder / f"noise-{side}.png"
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")
    path.write_bytes(png)
    return path
