"""A built page, served with its headers."""

import parley.asgi
import pytest
from starlette.applications import Starlette

from tests.web import Browser, served

POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
HTML = {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


@pytest.fixture
async def browser(tmp_path):
    app = Starlette(
        routes=parley.asgi.page_files(tmp_path / "dist"), exception_handlers=parley.asgi.exception_handlers()
    )
    async with served(app) as url, Browser(url) as browser:
        yield browser


@pytest.fixture
def dist(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "dist"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html>")
    (folder / "icon.svg").write_text("<svg/>")
    (folder / "notes.md").write_text("notes")
    (folder / "assets" / "index-abc.js").write_text("run()")
    return folder


async def test_the_page_is_served_at_the_root_and_at_every_conversation(browser, dist):
    for path in ("/", "/c/9007199254740991"):
        page = await browser.call("GET", path)
        assert (page.status_code, page.text) == (200, "<!doctype html>")
        assert {name: page.headers[name] for name in HTML} == HTML
    assert (await browser.call("HEAD", "/")).status_code == 200


async def test_assets_never_change_and_are_not_sent_twice(browser, dist):
    asset = await browser.call("GET", "/assets/index-abc.js")
    assert asset.text == "run()"
    assert asset.headers["content-type"].startswith("text/javascript")
    assert asset.headers["cache-control"] == "public, max-age=31536000, immutable"
    again = await browser.call("GET", "/assets/index-abc.js", headers={"If-None-Match": asset.headers["etag"]})
    assert again.status_code == 304


async def test_an_icon_is_served_and_no_other_file(browser, dist):
    assert (await browser.call("GET", "/icon.svg")).text == "<svg/>"
    for path in ("/notes.md", "/nothing.svg", "/assets/../index.html", "/assets/%2e%2e/index.html", "/assets/"):
        assert (await browser.call("GET", path)).status_code in {200, 404}
    for path in ("/..%2fsecret.txt", "/assets/..%2f..%2fsecret.txt", "/assets/%2e%2e/%2e%2e/secret.txt", "/notes.md"):
        answer = await browser.call("GET", path)
        assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")


async def test_without_a_build_the_answer_says_how_to_make_one(browser):
    answer = await browser.call("GET", "/")
    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")
    assert "npm run build" in answer.json()["message"]
    assert (await browser.call("GET", "/assets/index-abc.js")).status_code == 404
