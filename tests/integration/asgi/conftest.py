"""An application with the page's routes, on a real socket, in front of a real server."""

import contextlib

import parley
import parley.asgi
import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from tests.web import Browser, served

CONFIG = parley.asgi.PageConfig(wire="page", title="Test chat", login="token", images=True)


@pytest.fixture
async def page(server):
    """Starts an application: `await page(sends=True, ...)` returns a function that makes a browser of a user."""
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(parley.Client(f"127.0.0.1:{server.app.port}"))

        def caller(request):
            user = request.headers.get("x-user")
            if not user:
                raise HTTPException(401, headers={"WWW-Authenticate": "Bearer"})
            return client.acting_for(user)

        async def start(*routes, **options):
            app = Starlette(
                routes=[*routes, *parley.asgi.page_routes(caller, CONFIG, **{"sends": True, **options})],
                exception_handlers=parley.asgi.exception_handlers(),
                middleware=[Middleware(parley.asgi.LimitBody, max_bytes=5_000_000)],
            )
            url = await stack.enter_async_context(served(app))
            browsers = await stack.enter_async_context(contextlib.AsyncExitStack())

            async def browser(user="ada"):
                headers = {"x-user": user} if user else {}
                return await browsers.enter_async_context(Browser(url, **headers))

            return browser

        yield start
