"""A reply that says nothing, followed from the start of a product on, so that no test has to wait for keep-alives."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import parley
from parley.v1 import resources_pb2

from tests.products.backends import Product
from tests.products.browsing import PAGE

LIMIT_S = 60.0


class Silence:
    """`comments` of the stream, and the seconds of silence before each; `fault` says how the stream ended.

    conversation: the id of a new one. open_client: makes a client of Parley that acts for the user. The model `silent`
    has no first token.
    """

    def __init__(
        self, product: Product, user: str, *, conversation: str, open_client: Callable[[str], parley.Client]
    ) -> None:
        self.comments: list[str] = []
        self.waited_s: list[float] = []
        self.fault = ""
        self._product, self._user, self._conversation = product, user, conversation
        self._open_client = open_client
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def listen(self) -> None:
        """Begin; the connection lives until the product ends."""
        self._thread.start()

    def heard(self, count: int) -> None:
        """Wait until there were so many comments."""
        with self._news:
            arrived = self._news.wait_for(lambda: self.fault or len(self.comments) >= count, LIMIT_S)
        assert arrived, "no comment"
        assert len(self.comments) >= count, self.fault

    def _run(self) -> None:
        try:
            asyncio.run(self._start())
            self._follow()
        except Exception as error:  # noqa: BLE001 - shown by the test that waits
            with self._news:
                self.fault = repr(error)
                self._news.notify_all()

    async def _start(self) -> None:
        async with self._open_client(self._user) as client:
            await client.conversations.create(resources_pb2.Conversation(id=self._conversation))
            await client.create_reply("Hi", conversation_id=self._conversation, model="silent", wait_s=0)

    def _follow(self) -> None:
        where = urlsplit(self._product.url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=LIMIT_S)
        with contextlib.closing(connection):
            self._listen(connection)

    def _listen(self, connection: http.client.HTTPConnection) -> None:
        path = f"{PAGE}/conversations/{self._conversation}/stream"
        limit = time.monotonic() + LIMIT_S
        while True:
            connection.request("GET", path, headers=self._product.headers(self._user))
            answer = connection.getresponse()
            if answer.status == 200:
                break
            refused = (answer.status, answer.read())
            assert answer.status == 503, refused  # a backend that has just started
            assert time.monotonic() < limit, refused
            time.sleep(0.5)
        last = time.monotonic()
        while line := answer.readline():
            now = time.monotonic()
            if line.startswith(b":"):
                with self._news:
                    self.comments.append(line.decode().strip())
                    self.waited_s.append(now - last)
                    self._news.notify_all()
            last = now if line.strip() else last
        raise AssertionError("the stream ended")
