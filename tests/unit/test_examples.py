"""The examples agree with each other."""

from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_one_page_serves_every_backend():
    page = EXAMPLES / "express/public/index.html"
    assert (EXAMPLES / "spring-boot/src/main/resources/static/index.html").read_text() == page.read_text()
