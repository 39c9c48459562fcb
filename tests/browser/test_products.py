"""The page of every product: each has its own way to send, and the page has to be the same."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from tests.browser.chat import Chat, script, words
from tests.products.backends import EXAMPLES, NAMES, TYPEWRITER, api_key, started, tenants
from tests.products.lanes import lane

pytestmark = pytest.mark.timeout(240)
"""The first test of a product starts it, which can take a minute."""

DEMO = {"express", "negotiate"}
LIMIT = 4
USERS = [f"ada-{number}" for number in range(8)]


@pytest.fixture(scope="module", params=[pytest.param(name, marks=lane(name)) for name in NAMES])
def product(request, tmp_path_factory):
    """A product whose users have a limit of messages a minute."""
    name = request.param
    limits = f"limits = {{ messages_per_minute = {LIMIT} }}\n"
    users = tenants(*USERS) if name == "ui" else tenants("shop")
    toml = TYPEWRITER + users.replace("api_keys_sha256", limits + "api_keys_sha256")
    demo = {"CHAT_DEMO_LOGIN": "on"} if name in DEMO else {}
    environment = {"PARLEY_API_KEY": api_key("shop"), "CHAT_PAGE": str(EXAMPLES / "page/dist"), **demo}
    folder = tmp_path_factory.mktemp(name)
    with started(name, folder, toml=toml, environment={} if name == "ui" else environment) as product:
        yield product


@pytest.fixture(scope="module")
def users(product):
    return iter(USERS)


@pytest.fixture
def chat(context, product, users):
    """The page, after the login of a user of one test."""
    user = next(users)
    chat = Chat(context, product.url).sign_in(user if product.name in DEMO else product.token(user))
    yield chat
    chat.close()


def test_an_answer_is_written_and_kept(chat, product):
    text = words(30)
    chat.ask(script(text, delay_s=0.05))
    expect(chat.text).to_contain_text("word3")
    chat.answered(text)
    chat.page.reload()
    expect(chat.text).to_have_text(text)
    expect(chat.questions).to_have_count(1)
    expect(chat.page.get_by_role("navigation").get_by_role("link").first).to_have_attribute("aria-current", "page")
    chat.shot(f"product-{product.name}")


def test_a_reload_in_the_middle_of_an_answer(chat):
    """With vision, too, whose replies end without a reader, but not within the seconds that a reload takes."""
    chat.ask(script(words(600), delay_s=0.05))
    expect(chat.text).to_contain_text("word9")
    chat.page.reload()
    expect(chat.text).to_contain_text("word30")
    chat.stopped()
    expect(chat.answers).to_have_count(1)


def test_stop_and_try_again(chat):
    chat.ask(script(words(600), delay_s=0.05))
    expect(chat.text).to_contain_text("word4")
    part = chat.stopped()
    chat.button("Try again").click()
    expect(chat.button("Stop")).to_be_visible()
    expect(chat.text).to_contain_text(f"word{len(part.split()) + 3}")
    chat.stopped()
    expect(chat.answers).to_have_count(1)


def test_a_limit_is_shown_with_a_countdown_and_keeps_the_question(chat, product):
    for number in range(LIMIT):
        chat.ask(script(f"Answer {number}."))
        chat.answered(f"Answer {number}.")
    chat.ask("One more?")
    chat.seen(re.compile(r"You have reached your limit\. You can write again in \d+ (s|min)\."))
    expect(chat.button("Try again").last).to_be_disabled()
    chat.shot(f"limit-{product.name}")
    chat.button("Edit").click()
    expect(chat.area).to_have_value("One more?")
    expect(chat.questions).to_have_count(LIMIT)


def test_injected_markup_stays_text(chat):
    dialogs: list[str] = []
    chat.page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    attack = "<img src=x onerror=alert(1)> [a](javascript:alert(2)) " + "w" * 400
    chat.ask(script(attack))
    chat.done()
    expect(chat.text).to_contain_text("<img src=x onerror=alert(1)>")
    assert chat.text.locator("img, a").count() == 0
    assert dialogs == []
    chat.check_layout()


def test_whole_answers_and_polling(chat, product):
    """S0.12, S2.3, S4.1: the switch for streaming. With spring-boot the page polls, and the text still grows."""
    chat.page.get_by_role("switch").click()
    polls: list[str] = []
    chat.page.on("request", lambda request: "/api/tasks/" in request.url and polls.append(request.url))
    text = words(100)
    chat.ask(script(text, delay_s=0.05))
    expect(chat.button("Stop")).to_be_visible()
    if product.name != "spring-boot":
        expect(chat.text).to_have_count(0)
    chat.answered(text)
    expect(chat.answers).to_have_count(1)
    assert bool(polls) == (product.name == "spring-boot")
