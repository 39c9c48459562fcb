"""S0.12: the page on a phone, in the dark, by keyboard alone, and with many messages."""

from __future__ import annotations

import contextlib
import re

import pytest
from playwright.sync_api import expect

from tests.browser.chat import Chat, script, words
from tests.browser.test_conversation import MARKDOWN
from tests.products.lanes import lane

pytestmark = lane("ui")

PHONE = {"viewport": {"width": 375, "height": 740}, "is_mobile": True, "has_touch": True}
LONG = MARKDOWN + "\n\n" + "w" * 400 + "\n\n" + "\n\n".join(f"Paragraph {number}." for number in range(30))


@pytest.fixture(params=["light", "dark"])
def phone(chromium, ui, request):
    context = chromium.new_context(**PHONE, color_scheme=request.param, reduced_motion="reduce")
    with contextlib.closing(context):
        chat = Chat(context, ui.url).open()
        chat.scheme = request.param
        yield chat
        chat.close()


def test_a_phone_has_a_drawer_large_targets_and_nothing_too_wide(phone):
    phone.check_layout()
    phone.shot(f"empty-375-{phone.scheme}")
    phone.ask(script(LONG, pieces="whole"))
    phone.done()
    phone.check_layout()
    phone.shot(f"done-375-{phone.scheme}")
    phone.page.set_viewport_size({"width": 320, "height": 640})
    phone.check_layout()
    phone.page.set_viewport_size(PHONE["viewport"])
    panel = phone.page.get_by_role("complementary")
    expect(panel).not_to_be_visible()
    phone.button("Conversations").tap()
    expect(panel).to_be_visible()
    phone.check_layout()
    phone.shot(f"drawer-375-{phone.scheme}")
    phone.button("New conversation").tap()
    expect(panel).not_to_be_visible()
    expect(phone.page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    phone.button("Conversations").tap()
    panel.locator("nav a").first.tap()
    expect(panel).not_to_be_visible()
    expect(phone.text).to_contain_text("Paragraph 29.")


def test_dark_mode_on_a_desk(chromium, ui):
    context = chromium.new_context(
        viewport={"width": 1280, "height": 800}, color_scheme="dark", reduced_motion="reduce"
    )
    with contextlib.closing(context):
        chat = Chat(context, ui.url).open()
        chat.shot("empty-1280-dark")
        chat.ask(script(MARKDOWN, pieces="whole"))
        chat.done()
        assert chat.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(24, 26, 26)"
        chat.shot("done-1280-dark")
        chat.close()


def test_the_page_follows_the_end_only_where_the_reader_is_there(chat):
    chat.page.set_viewport_size({"width": 1280, "height": 420})
    chat.ask(script("\n\n".join(f"Paragraph {number}." for number in range(60)), delay_s=0.05))
    expect(chat.text).to_contain_text("Paragraph 12.")
    at_end = "(e => e.scrollHeight - e.scrollTop - e.clientHeight < 60)(document.querySelector('.scroller'))"
    chat.until(at_end)
    expect(chat.button("Jump to latest")).not_to_be_visible()
    chat.page.mouse.move(700, 200)
    chat.page.mouse.wheel(0, -250)
    expect(chat.button("Jump to latest")).to_be_visible()
    chat.shot("jump-1280-light")
    top = chat.page.evaluate("document.querySelector('.scroller').scrollTop")
    expect(chat.text).to_contain_text("Paragraph 30.")
    assert chat.page.evaluate("document.querySelector('.scroller').scrollTop") == top
    chat.button("Jump to latest").click()
    expect(chat.button("Jump to latest")).not_to_be_visible()
    chat.done()
    chat.until(at_end)


def test_answers_can_be_shown_only_when_they_are_complete(chat):
    chat.page.get_by_role("switch", name="Show answers while they are written").click()
    chat.ask(script(words(30), delay_s=0.06))
    chat.seen("Writing …")
    expect(chat.text).to_have_count(0)
    chat.answered(words(30))
    chat.page.reload()
    expect(chat.page.get_by_role("switch")).not_to_be_checked()


def test_a_draft_survives_a_reload_and_another_conversation(chat):
    chat.area.fill("half a thought")
    chat.page.reload()
    expect(chat.area).to_have_value("half a thought")
    chat.area.fill(script("One."))
    chat.area.press("Enter")
    chat.answered("One.")
    chat.area.fill("for this conversation")
    chat.button("New conversation").click()
    expect(chat.area).to_have_value("")
    chat.page.go_back()
    expect(chat.area).to_have_value("for this conversation")
    chat.area.fill("")


def test_conversations_are_listed_opened_and_deleted(chat):
    chat.ask(script("The first answer."))
    chat.answered("The first answer.")
    first = chat.page.url
    chat.button("New conversation").click()
    chat.ask(script("The second answer."))
    chat.answered("The second answer.")
    rows = chat.page.get_by_role("navigation").get_by_role("link")
    expect(rows.first).to_contain_text(re.compile(r"second answer.*now", re.DOTALL))
    expect(rows.first).to_have_attribute("aria-current", "page")
    rows.nth(1).click()
    expect(chat.text).to_have_text("The first answer.")
    assert chat.page.url == first
    count = rows.count()
    delete = chat.page.get_by_role("button", name=re.compile("^Delete .*first answer"))
    delete.click()
    chat.shot("delete-1280-light")
    chat.button("Delete").click()
    expect(rows).to_have_count(count - 1)
    expect(chat.page).to_have_url(chat.url + "/")
    chat.page.goto(first)
    expect(chat.page.get_by_role("alert")).to_have_text("This conversation does not exist, or it is not yours.")


def test_the_keyboard_alone_is_enough(chat):
    keyboard = chat.page.keyboard
    expect(chat.area).to_be_focused()
    keyboard.type("a line")
    keyboard.press("Shift+Enter")
    keyboard.type("another")
    expect(chat.area).to_have_value("a line\nanother")
    keyboard.press("Control+A")
    keyboard.insert_text(script(words(200), delay_s=0.05))
    keyboard.press("Enter")
    expect(chat.text).to_contain_text("word3")
    keyboard.press("Tab")
    expect(chat.button("Stop")).to_be_focused()
    keyboard.press("Enter")
    chat.done()
    chat.seen("Stopped.")
    expect(chat.area).to_be_focused()
    again = chat.button("Try again")
    for _ in range(12):
        keyboard.press("Shift+Tab")
        if again.evaluate("element => element === document.activeElement"):
            break
    expect(again).to_be_focused()
    assert again.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
    keyboard.press("Enter")
    expect(chat.button("Stop")).to_be_visible()
    expect(chat.area).to_be_focused()
    keyboard.press("Tab")
    keyboard.press("Enter")
    chat.done()


def test_the_drawer_returns_the_focus(chromium, ui):
    with contextlib.closing(chromium.new_context(**PHONE, reduced_motion="reduce")) as context:
        chat = Chat(context, ui.url).open()
        chat.button("Conversations").focus()
        chat.page.keyboard.press("Enter")
        expect(chat.button("New conversation")).to_be_focused()
        chat.page.keyboard.press("Escape")
        expect(chat.button("Conversations")).to_be_focused()
        chat.close()


def test_live_regions_tell_what_happens(chat):
    log = chat.page.get_by_role("log")
    chat.ask(script(words(60), delay_s=0.05))
    expect(log).to_have_attribute("aria-busy", "true")
    expect(chat.page.get_by_role("status").filter(has_text="Writing …")).to_have_count(1)
    chat.done()
    expect(log).to_have_attribute("aria-busy", "false")
