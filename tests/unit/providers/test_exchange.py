"""The outcome of an exchange does not depend on whether the end of the body arrived in the same read."""

import pytest
from parley_server.providers.http.exchange import Exchange, Head


class Refused(Exception):
    pass


def refuse(_: bytes) -> None:
    raise Refused


class Calls:
    def __init__(self) -> None:
        self.aborts = 0
        self.exchange = Exchange(abort=self.abort, resume=lambda: None)
        self.exchange.head.set_result(Head(200, b"OK", headers=[], http_version="HTTP/1.1", until_close=False))

    def abort(self) -> None:
        self.aborts += 1


async def test_an_error_of_the_feed_is_raised_even_if_the_body_has_ended():
    calls = Calls()
    calls.exchange.deliver(b"body")
    calls.exchange.complete()
    with pytest.raises(Refused):
        await calls.exchange.push_to(refuse)
    assert calls.aborts == 0  # the connection may be in use for the next exchange by now


async def test_an_error_of_the_feed_closes_a_connection_whose_body_has_not_ended():
    calls = Calls()
    calls.exchange.deliver(b"body")
    with pytest.raises(Refused):
        await calls.exchange.push_to(refuse)
    assert calls.aborts == 1
    calls.exchange.deliver(b"more")
    calls.exchange.complete()
    assert calls.aborts == 1


async def test_an_error_of_the_feed_takes_precedence_over_a_broken_connection():
    calls = Calls()
    calls.exchange.deliver(b"body")
    calls.exchange.fail(ConnectionError())
    with pytest.raises(Refused):
        await calls.exchange.push_to(refuse)
