"""The form of prompts and answers in a siege: each stored text has the id of the request to a provider that caused it.

Prompts, answers and keys contain marked words, which must not appear in any log.
"""

from __future__ import annotations

import re
from typing import NamedTuple

PROMPT_MARK = "quokkaprompt"
ANSWER_MARK = "quokkaanswer"
KEY_MARK = "quokkakey"
MARKS = {"prompt": PROMPT_MARK, "answer": ANSWER_MARK, "key": KEY_MARK}

_PROMPT = re.compile(PROMPT_MARK + r" ([0-9a-f-]{36}): answer with (\d+) tokens")
_FIRST = re.compile(ANSWER_MARK + r"-([0-9a-f]+)-0 ")


class PromptContent(NamedTuple):
    """The content of a prompt: the request id of its caller, and the number of tokens of the answer."""

    request_id: str
    tokens: int


class AnswerContent(NamedTuple):
    """The content of an answer: the first `tokens` tokens of the answer of one attempt."""

    attempt: str
    tokens: int


def prompt(request_id: str, tokens: int) -> str:
    """The user's message of a request."""
    return f"{PROMPT_MARK} {request_id}: answer with {tokens} tokens"


def read_prompt(body: str) -> PromptContent | None:
    """The content of the newest prompt in a provider's request; None without such a prompt."""
    found = _PROMPT.findall(body)
    return PromptContent(found[-1][0], int(found[-1][1])) if found else None


def token(attempt: str, number: int) -> str:
    """One token of the answer of an attempt."""
    return f"{ANSWER_MARK}-{attempt}-{number} "


def answer(attempt: str, tokens: int) -> str:
    """The first tokens of the answer of an attempt."""
    return "".join(token(attempt, number) for number in range(tokens))


def read_answer(text: str) -> AnswerContent | None:
    """The attempt and the length of a text; None unless it is the beginning of the answer of one attempt."""
    first = _FIRST.match(text)
    if first is None:
        return None
    found = AnswerContent(first[1], text.count(" "))
    return found if text == answer(*found) else None
