"""Random paths of a conversation become prompts that providers with strict rules accept."""

from __future__ import annotations

import itertools
import json
import re

import msgspec
from hypothesis import assume, given, settings
from parley_server.core.model import TextPart
from parley_server.providers.anthropic.prompt import message_body
from parley_server.providers.gemini.prompt import gemini_body
from parley_server.providers.openai.profile import PROFILES
from parley_server.providers.openai.prompt import messages_of
from parley_server.providers.openai.responses_prompt import responses_body

from tests.prompt_paths import prompts


def check_ids(entries, pattern):
    """Check that each call has one result directly after it, and each result a call."""
    seen: set[str] = set()
    waiting: list[str] = []
    for entry in entries:
        if entry["role"] == "tool":
            assert entry["tool_call_id"] in waiting, "a result without its call"
            waiting.remove(entry["tool_call_id"])
            continue
        assert not waiting, "a call without its result"
        for call in entry.get("tool_calls", ()):
            assert re.fullmatch(pattern, call["id"])
            assert call["id"] not in seen, "a repeated id"
            seen.add(call["id"])
            waiting.append(call["id"])
    assert not waiting, "a call without its result at the end"


def check_turns(entries):
    """Check the rule of chat templates: at most one system message at the start, then alternating user and assistant
    turns. Tool calls and results belong to the assistant's turn."""
    roles = [entry["role"] for entry in entries]
    if roles[:1] == ["system"]:
        roles = roles[1:]
    assert roles[:1] in ([], ["user"])
    for before, role in itertools.pairwise(roles):
        allowed = {"user": ["assistant"], "assistant": ["user", "tool"], "tool": ["tool", "assistant"]}
        assert role in allowed[before], (before, role)


@given(made=prompts())
@settings(deadline=None, max_examples=200)
def test_random_paths_become_prompts_that_every_profile_accepts(made):
    prompt, new = made
    for profile in ("generic", "mistral", "openai", "deepseek"):
        entries = messages_of(prompt, PROFILES[profile])
        check_ids(entries, "[A-Za-z0-9]{9}" if PROFILES[profile].tool_id == "short" else "[A-Za-z0-9_-]{1,40}")
        if profile == "generic":
            check_turns(entries)
            check_newest(entries, new)
        if profile == "mistral":
            check_turns([entries[0], *[entry for entry in entries[1:] if entry["role"] != "system"]])
        if not PROFILES[profile].prefill:
            assert entries[-1]["role"] != "assistant"


@given(made=prompts())
@settings(deadline=None, max_examples=100)
def test_random_paths_become_input_that_the_responses_api_accepts(made):
    items = responses_body(made[0], PROFILES["openai"], origin="o")["input"]
    check_ids(as_entries(items), "[A-Za-z0-9_-]{1,40}")


def as_entries(items):
    """Input items in the form of chat completions: neighbouring calls are one message."""
    entries = []
    for item in items:
        if item.get("type") == "function_call":
            if not entries or "tool_calls" not in entries[-1]:
                entries.append({"role": "assistant", "tool_calls": []})
            entries[-1]["tool_calls"].append({"id": item["call_id"]})
        elif item.get("type") == "function_call_output":
            entries.append({"role": "tool", "tool_call_id": item["call_id"]})
        else:
            entries.append(item)
    return entries


@given(made=prompts())
@settings(deadline=None, max_examples=200)
def test_random_paths_become_messages_that_anthropic_accepts(made):
    prompt, new = made
    messages = plain(message_body(without_prefill(prompt), origin="o"))["messages"]
    assume(messages)
    assert messages[0]["role"] == messages[-1]["role"] == "user"
    waiting: list[str] = []
    for before, message in itertools.pairwise([{"role": "assistant"}, *messages]):
        assert message["role"] != before["role"]
        kinds = [block["type"] for block in message["content"]]
        assert kinds == sorted(kinds, key=lambda kind: kind != "tool_result"), "results come first"
        results = [block["tool_use_id"] for block in message["content"] if block["type"] == "tool_result"]
        assert sorted(results) == sorted(waiting), "one result for each call, in the next message"
        waiting = [block["id"] for block in message["content"] if block["type"] == "tool_use"]
        assert all(block["text"].strip() for block in message["content"] if block["type"] == "text")
    assert not waiting
    for part in (part for message in new for part in message.parts):
        content = part.text if isinstance(part, TextPart) else part.content
        assert content in json.dumps(messages)


@given(made=prompts())
@settings(deadline=None, max_examples=200)
def test_random_paths_become_contents_that_gemini_accepts(made):
    contents = plain(gemini_body(without_prefill(made[0]), origin="o"))["contents"]
    assume(contents)
    assert contents[0]["role"] == contents[-1]["role"] == "user"
    waiting: list[str] = []
    for before, content in itertools.pairwise([{"role": "model"}, *contents]):
        assert content["role"] != before["role"]
        results = [part["functionResponse"]["name"] for part in content["parts"] if "functionResponse" in part]
        assert sorted(results) == sorted(waiting), "one result for each call, in the next content"
        waiting = [part["functionCall"]["name"] for part in content["parts"] if "functionCall" in part]
        assert all(part["text"] for part in content["parts"] if "text" in part)
    assert not waiting


def without_prefill(prompt):
    """The prompt for a model that does not support a prompt that ends with its own message."""
    return msgspec.structs.replace(prompt, model=msgspec.structs.replace(prompt.model, prefill=False))


def plain(body):
    """The body as a server reads it."""
    return msgspec.json.decode(msgspec.json.encode(body))


def check_newest(entries, new):
    """Check that the prompt has all new input."""
    for part in (part for message in new for part in message.parts):
        content = part.text if isinstance(part, TextPart) else part.content
        assert any(content in (entry.get("content") or "") for entry in entries)
