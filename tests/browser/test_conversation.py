"""S0.12, S2.3: writing, reading, stopping and repeating in the page of `parley serve --ui`."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.browser.chat import picture, script, words
from tests.products.lanes import lane

pytestmark = lane("ui")

MARKDOWN = """# Leases

A **lease** is a promise with an *end*. See [RFC 2131](https://www.rfc-editor.org/rfc/rfc2131) and `renew()`.

1. Ask for it.
2. Renew it **before** it ends:
   - at half of its time
   - again at seven eighths

```python
async def renew(lease: Lease) -> None:
    await store.extend(lease.id, owner=lease.owner, epoch=lease.epoch, until=now() + lease.duration_s, timeout_s=5)
```

| holder | ends | note |
|---|--:|---|
| replica 1 | 12 s | renews |
| replica 2 | 3 s | silent for a long while |
"""


def test_an_answer_is_written_with_markdown_tokens_and_cost(chat):
    chat.ask(script(MARKDOWN, delay_s=0.05))
    expect(chat.questions).to_have_count(1)
    expect(chat.area).to_have_value("")
    chat.seen("Writing …")
    expect(chat.text.locator("h3")).to_have_text("Leases")
    chat.shot("writing-1280-light")
    chat.done()
    expect(chat.text.locator("ol > li")).to_have_count(2)
    expect(chat.text.locator("td").nth(1)).to_have_text("12 s")
    expect(chat.answers.last).to_contain_text(re.compile(r"scripted · \d+ in \+ \d+ out tokens · \$0\.\d+"))
    link = chat.text.get_by_role("link", name="RFC 2131")
    assert link.get_attribute("rel") == "noopener noreferrer"
    assert link.get_attribute("target") == "_blank"
    chat.check_layout()
    chat.shot("done-1280-light")


def test_code_and_answers_are_copied(chat):
    chat.context.grant_permissions(["clipboard-read", "clipboard-write"])
    chat.ask(script("Look:\n\n```js\nlet a = 1 < 2;\n```"))
    chat.done()
    chat.button("Copy the code").click()
    expect(chat.button("Copied")).to_be_visible()
    assert chat.page.evaluate("navigator.clipboard.readText()") == "let a = 1 < 2;\n"
    chat.button("Copy the answer").click()
    expect(chat.button("Copied")).to_have_count(2)
    assert "Look:\n\n```js" in chat.page.evaluate("navigator.clipboard.readText()")


def test_a_reload_in_the_middle_of_an_answer_loses_nothing(chat):
    chat.ask(script(words(600), delay_s=0.05))
    expect(chat.text).to_contain_text("word9")
    address = chat.page.url
    assert re.search(r"/c/[0-9a-f-]{36}$", address)
    chat.page.reload()
    expect(chat.text).to_contain_text("word30")
    expect(chat.questions).to_have_count(1)
    assert chat.page.url == address
    chat.stopped()
    expect(chat.answers).to_have_count(1)


def test_a_second_tab_shows_the_same_live_text_and_can_stop_it(chat):
    chat.ask(script(words(600), delay_s=0.05))
    expect(chat.text).to_contain_text("word5")
    second = chat.second()
    expect(second.text).to_contain_text("word5")
    part = second.stopped()
    chat.done()
    chat.seen("Stopped.")
    expect(chat.text).to_have_text(part)
    second.close()


def test_an_idle_tab_shows_what_another_one_asks(chat):
    chat.ask(script("One."))
    chat.answered("One.")
    second = chat.second()
    expect(second.text).to_have_text("One.")
    chat.ask(script(words(40), delay_s=0.05))
    expect(second.button("Stop")).to_be_visible()
    expect(second.questions).to_have_count(2)
    for tab in (chat, second):
        tab.answered(words(40))
    second.close()


def test_two_presses_of_enter_send_one_question(chat):
    chat.area.fill(script(words(5), delay_s=0.05))
    chat.page.evaluate(
        """() => {
          const area = document.querySelector('textarea');
          for (let press = 0; press < 3; press += 1)
            area.dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', bubbles: true, cancelable: true }));
        }"""
    )
    chat.answered(words(5))
    expect(chat.questions).to_have_count(1)
    assert len([url for url in chat.posts if url.endswith("/messages")]) == 1


def test_a_question_of_a_tab_that_comes_second_is_given_back(chat):
    chat.ask(script("One."))
    chat.answered("One.")
    second = chat.second()
    expect(second.text).to_have_text("One.")
    # The second tab hears nothing of the first one's question before it sends its own.
    second.page.route(
        re.compile(r"/messages$"), lambda route: route.abort() if route.request.method == "GET" else route.continue_()
    )
    chat.ask(script(words(60), delay_s=0.05))
    expect(chat.text).to_contain_text("word3")
    second.page.evaluate("window.dispatchEvent(new Event('focus'))")
    second.ask("and mine?")
    second.seen("An answer is still being written in this conversation.")
    expect(second.area).to_have_value("and mine?")
    expect(second.questions).to_have_count(1)
    second.page.unroute_all()
    chat.answered(words(60))
    second.close()


def test_twenty_kilobytes_are_pasted_sent_and_shown(chat):
    text = "\n".join(f"line {number:04} " + "x" * 30 for number in range(480))
    assert len(text) > 19_000
    chat.context.grant_permissions(["clipboard-read", "clipboard-write"])
    chat.page.evaluate("text => navigator.clipboard.writeText(text)", text)
    chat.area.focus()
    chat.page.keyboard.press("Control+V")
    expect(chat.area).to_have_value(text)
    assert chat.area.bounding_box()["height"] <= 240
    chat.shot("paste-1280-light")
    chat.area.press("Enter")
    expect(chat.questions.last).to_contain_text("line 0479")
    chat.done()
    chat.check_layout()


def test_stop_keeps_what_was_written_and_try_again_writes_it_anew(chat):
    chat.ask(script(words(600), delay_s=0.05))
    expect(chat.text).to_contain_text("word4")
    part = chat.stopped()
    chat.shot("stopped-1280-light")
    chat.page.reload()
    expect(chat.text).to_have_text(part)
    chat.button("Try again").click()
    expect(chat.button("Stop")).to_be_visible()
    expect(chat.text).to_contain_text(f"word{len(part.split()) + 3}")
    chat.stopped()
    expect(chat.answers).to_have_count(1)
    expect(chat.questions).to_have_count(1)


def test_a_failure_has_a_sentence_keeps_the_text_and_offers_another_attempt(chat):
    fault = {"kind": "error", "after": 3, "reason": "PROVIDER_UNAVAILABLE"}
    chat.ask(script(words(9), fault=fault))
    chat.done()
    chat.seen("The model cannot be reached at the moment.")
    expect(chat.text).to_have_text("word0 word1 word2")
    chat.shot("failed-1280-light")
    with chat.page.expect_response(lambda response: response.url.endswith("/retry")):
        chat.button("Try again").click()
    chat.done()
    chat.seen("The model cannot be reached at the moment.")
    assert sum(url.endswith("/retry") for url in chat.posts) == 1
    expect(chat.answers).to_have_count(1)


def test_a_model_that_fails_before_its_first_word_is_shown_after_a_reload_too(chat):
    chat.ask(script(words(9), fault={"kind": "error", "after": 0, "reason": "PROVIDER_REJECTED"}))
    chat.done()
    chat.seen("The model refused this question.")
    chat.page.reload()
    chat.seen("The model refused this question.")
    expect(chat.button("Try again")).to_be_visible()


def test_injected_markup_stays_text(chat):
    long = "w" * 400
    attack = (
        "<img src=x onerror=alert(1)>\n\n<script>alert(2)</script>\n\n[link](javascript:alert(3)) "
        f"[data](data:text/html,<script>alert(4)</script>)\n\n![pixel](https://tracker.example/p.png)\n\n{long}"
    )
    dialogs: list[str] = []
    requests: list[str] = []
    chat.page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    chat.page.on("request", lambda request: requests.append(request.url))
    chat.ask(script(attack))
    chat.done()
    expect(chat.text).to_contain_text("<img src=x onerror=alert(1)>")
    expect(chat.text).to_contain_text(long)
    assert chat.text.locator("img, script, iframe").count() == 0
    addresses = chat.text.locator("a").evaluate_all("links => links.map((link) => link.href)")
    assert addresses == ["https://tracker.example/p.png"]
    expect(chat.questions.first.locator("img")).to_have_count(0)
    assert dialogs == []
    assert [url for url in requests if not url.startswith(chat.url)] == []
    chat.check_layout()
    chat.shot("injection-1280-light")


def test_a_picture_is_scaled_down_shown_and_kept(chat, tmp_path):
    large = picture(tmp_path, side=1_800)
    assert large.stat().st_size > 9_000_000
    chat.page.set_input_files("input[type=file]", large)
    expect(chat.page.get_by_alt_text("Picture to send")).to_be_visible()
    chat.shot("picture-1280-light")
    with chat.page.expect_request(re.compile(r"/messages$")) as sent:
        chat.ask("What is in this picture?")
    assert len(sent.value.post_data) < 3 * 1024 * 1024
    shown = chat.questions.last.get_by_alt_text("Your picture")
    expect(shown).to_be_visible()
    chat.done()
    chat.page.reload()
    expect(shown).to_be_visible()
    assert shown.evaluate("image => image.decode().then(() => image.naturalWidth)") > 200


def test_pictures_are_dropped_pasted_and_removed(chat, tmp_path):
    data = list(picture(tmp_path, side=24).read_bytes())
    expect(chat.button("Add a picture")).to_be_visible()  # the page has the list of models
    chat.page.evaluate(  # both at once: the first one is still being read when the second one comes
        """data => {
          for (const kind of ['drop', 'paste']) {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(data)], 'small.png', { type: 'image/png' }));
            const event = kind === 'drop'
              ? new DragEvent('drop', { dataTransfer: transfer, bubbles: true, cancelable: true })
              : new ClipboardEvent('paste', { clipboardData: transfer, bubbles: true, cancelable: true });
            document.querySelector('textarea').dispatchEvent(event);
          }
        }""",
        data,
    )
    pictures = chat.page.get_by_alt_text("Picture to send")
    expect(pictures).to_have_count(2)
    chat.button("Remove the picture").first.click()
    expect(pictures).to_have_count(1)
    text = tmp_path / "notes.txt"
    text.write_text("not a picture")
    chat.page.set_input_files("input[type=file]", text)
    expect(chat.page.get_by_role("alert").filter(has_text="notes.txt is not a picture")).to_be_visible()
