"""A real server of llama.cpp on loopback, with a small model and a chat template that is strict about roles."""

from __future__ import annotations

import http.client
import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.service import START_S, Service
from tests.tools import ROOT

PACKAGES = ROOT / ".tools/llama-cpp"
CONTEXT_TOKENS = 1024
# As those of Llama 2, Mistral and Gemma: after a system message, user and assistant must alternate.
TEMPLATE = """\
{%- set first = 1 if messages[0].role == 'system' else 0 -%}
{%- for message in messages -%}
{%- if loop.index0 >= first and (message.role == 'user') != ((loop.index0 - first) % 2 == 0) -%}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') -}}
{%- endif -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def require_llama_cpp() -> None:
    """Skip the test if llama.cpp or the model is not installed."""
    if not (PACKAGES / "installed.txt").exists():
        pytest.skip("llama.cpp is missing: make llama-cpp")


class LlamaServer(Service):
    """llama.cpp in `folder`; a slot has a context of `CONTEXT_TOKENS`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, port=0)

    @property
    def url(self) -> str:
        """The address, without a path."""
        return f"http://127.0.0.1:{self.port}"

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """The status and the JSON of an answer. Blocks the caller."""
        return self._ask("POST", path, json.dumps(body))

    def count(self, messages: list[dict[str, str]]) -> int:
        """The tokens of a prompt of these messages."""
        _, shown = self.post("/apply-template", {"messages": messages})
        _, counted = self.post("/tokenize", {"content": shown["prompt"], "add_special": True, "parse_special": True})
        return len(counted["tokens"])

    def _ask(self, method: str, path: str, body: str = "") -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_S)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def _prepare(self) -> None:
        (self.folder / "template").write_text(TEMPLATE)

    def _command(self) -> list[str]:
        # With several threads, which wait for each other actively, it is slow on a busy machine.
        program = str(ROOT / "tools/llama_server.py")
        return [
            *(sys.executable, program, str(PACKAGES), f"--port={self.port}", "--threads=1"),
            *(f"--context-tokens={CONTEXT_TOKENS}", f"--template={self.folder / 'template'}"),
        ]

    def _ready(self) -> bool:
        try:
            status, _ = self._ask("GET", "/health")
        except OSError:
            return False
        return status == 200

    def _stop_signal(self, mode: str) -> signal.Signals:
        return signal.SIGKILL
