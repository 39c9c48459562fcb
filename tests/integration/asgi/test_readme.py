"""The example in the README of the Python client runs as it is printed."""

import re
from pathlib import Path

from tests.upstream import answer
from tests.web import Browser, served, text_of

README = Path(__file__).parents[3] / "clients/python/README.md"
PRELUDE = """
import asyncio, contextlib
from typing import Annotated
import parley, parley.asgi
from fastapi import Depends, FastAPI, Request
from starlette.middleware import Middleware

def signed_in_user(request):
    return "ada"
"""


async def test_the_fastapi_example_streams_and_serves_the_page_routes(server, upstream):
    upstream.reply_with(answer("Hello", " there"))
    section = README.read_text().partition("## FastAPI and Starlette")[2]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    code, last_line = code.rstrip().rsplit("\n", 1)
    assert last_line == "asyncio.run(parley.asgi.serve(app, port=8000))"
    program = {}
    exec(PRELUDE + code.replace("127.0.0.1:50051", f"127.0.0.1:{server.app.port}"), program)
    async with served(program["app"]) as url, Browser(url) as browser:
        events = await browser.events("POST", "/chat/c1?text=Hi")
        assert text_of(events, "token", "content") == "Hello there"
        assert events[-1] == {"type": "done", "reason": "STOP"}
        listed = (await browser.call("GET", "/api/page/conversations/c1/messages")).json()["messages"]
        assert [message["text"] for message in listed] == ["Hi", "Hello there"]
