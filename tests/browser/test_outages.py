"""S0.12, S4.4: what a person sees when the server, the backend or the network goes away, and comes back."""

from __future__ import annotations

import contextlib
import re

import pytest
from playwright.sync_api import expect

from tests.browser.chat import Chat, script, words
from tests.products.backends import started
from tests.products.lanes import lane

pytestmark = lane("ui")

LOST = "The connection was lost. Trying again"


@pytest.fixture(scope="module")
def negotiate(tmp_path_factory):
    """A backend and Parley in processes of their own."""
    with started("negotiate", tmp_path_factory.mktemp("negotiate"), environment={"CHAT_DEMO_LOGIN": "on"}) as product:
        yield product


@pytest.fixture
def chat_of_negotiate(context, negotiate):
    chat = Chat(context, negotiate.url).sign_in("ada")
    yield chat
    chat.close()


def test_a_killed_server_keeps_what_was_written_and_the_page_comes_back(chat, ui):
    chat.ask(script(words(300), delay_s=0.05))
    expect(chat.text).to_contain_text("word12")
    ui.kill()
    chat.seen(LOST)
    chat.shot("reconnecting-1280-light")
    ui.restart()
    chat.done()
    chat.seen("The server that wrote this answer was stopped. What it had written is kept.")
    expect(chat.text).to_contain_text("word5")
    chat.button("Try again").click()
    expect(chat.button("Stop")).to_be_visible()
    expect(chat.text).to_contain_text("word20")
    chat.button("Stop").click()
    chat.done()


def test_a_question_that_was_asked_while_the_server_was_away_is_sent_once_it_is_back(chat, ui):
    ui.kill()
    chat.ask(script("Here I am."))
    chat.seen(LOST)
    ui.restart()
    chat.answered("Here I am.")
    expect(chat.questions).to_have_count(1)


def test_stop_gives_back_a_question_that_cannot_be_sent(chat, ui):
    ui.kill()
    with contextlib.ExitStack() as stack:
        stack.callback(ui.restart)
        chat.ask("Is anybody there?")
        chat.seen(LOST)
        chat.button("Stop").click()
        chat.seen("Your question was not sent.")
        chat.shot("not-sent-1280-light")
        chat.button("Edit").click()
        expect(chat.area).to_have_value("Is anybody there?")
        expect(chat.questions).to_have_count(0)


def test_offline_and_back_the_answer_is_whole(chat):
    text = words(80)
    chat.ask(script(text, delay_s=0.08))
    expect(chat.text).to_contain_text("word5")
    chat.context.set_offline(True)
    expect(chat.page.get_by_role("status").filter(has_text="You are offline.")).to_be_visible()
    chat.seen(LOST)
    chat.shot("offline-1280-light")
    chat.context.set_offline(False)
    expect(chat.page.get_by_text("You are offline.")).to_have_count(0)
    chat.answered(text)
    expect(chat.answers).to_have_count(1)


def test_a_restarted_backend_does_not_end_the_answer(chat_of_negotiate, negotiate):
    text = words(150)
    chat_of_negotiate.ask(script(text, delay_s=0.06))
    expect(chat_of_negotiate.text).to_contain_text("word5")
    negotiate.kill()
    chat_of_negotiate.seen(LOST)
    negotiate.restart()
    chat_of_negotiate.answered(text)
    expect(chat_of_negotiate.answers).to_have_count(1)


def test_a_killed_parley_behind_a_backend_is_seen_as_reconnecting(chat_of_negotiate, negotiate):
    chat_of_negotiate.ask(script(words(300), delay_s=0.05))
    expect(chat_of_negotiate.text).to_contain_text("word12")
    negotiate.parley.kill()
    with contextlib.ExitStack() as stack:
        stack.callback(negotiate.parley.restart)
        expect(chat_of_negotiate.button("Stop")).to_be_visible()
    chat_of_negotiate.done()
    expect(chat_of_negotiate.text).to_contain_text("word5")
    chat_of_negotiate.seen(re.compile("was stopped|could not|cannot"))


def test_a_page_that_cannot_reach_its_backend_says_so_and_tries_again(context, ui):
    chat = Chat(context, ui.url)
    chat.page.route(re.compile(r"/api/page/config$"), lambda route: route.abort())
    chat.page.goto(ui.url)
    expect(chat.page.get_by_role("alert")).to_have_text("The server cannot be reached. Check your connection.")
    chat.page.unroute_all()
    chat.button("Try again").click()
    expect(chat.area).to_be_visible()
    chat.close()
