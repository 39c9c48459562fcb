"""The page of `parley serve --ui` offers what the model of the next question can do."""

from __future__ import annotations

import contextlib

import pytest
from playwright.sync_api import expect

from tests.browser.chat import Chat, picture
from tests.products.backends import started
from tests.products.lanes import lane

pytestmark = lane("ui")

MODELS = """
[providers.typewriter]
kind = "scripted"
[models.plain]
provider = "typewriter"
name = "scripted"
[models.seeing]
provider = "typewriter"
name = "scripted"
images = true
[server]
default_model = "plain"
"""


@pytest.fixture
def chat(context, tmp_path):
    """The page of a server whose default model takes no images, while another one does."""
    with started("ui", tmp_path, toml=MODELS, credentials=False) as ui:
        chat = Chat(context, ui.url).open()
        yield chat
        chat.close()


def test_pictures_can_be_added_only_if_the_model_takes_them(chat, tmp_path):
    """The default model decides while none is chosen."""
    add, model = chat.button("Add a picture"), chat.page.get_by_role("combobox", name="Model")
    expect(model).to_be_visible()  # the page has the list of models
    expect(add).to_have_count(0)
    model.select_option("seeing")
    expect(add).to_be_visible()
    chat.page.set_input_files("input[type=file]", picture(tmp_path, side=24))
    expect(chat.page.get_by_alt_text("Picture to send")).to_be_visible()
    chat.area.fill("What is in this picture?")
    expect(chat.button("Send")).to_be_enabled()

    model.select_option("")
    expect(add).to_have_count(0)
    expect(chat.page.get_by_role("alert").filter(has_text="This model takes no pictures")).to_be_visible()
    expect(chat.button("Send")).to_be_disabled()
    chat.button("Remove the picture").click()
    expect(chat.button("Send")).to_be_enabled()


def test_pictures_are_not_offered_while_the_models_are_unknown(context, chat):
    with contextlib.closing(context.new_page()) as page:
        page.route("**/api/page/models", lambda route: route.abort())
        page.goto(chat.url)
        expect(page.get_by_role("textbox", name="Message")).to_be_visible()
        expect(page.get_by_text("Ask below.")).to_be_visible()
        expect(page.get_by_role("button", name="Add a picture")).to_have_count(0)
