"""The model of a product: an upstream server that speaks the vendor's dialect, word by word as a test says it."""

from __future__ import annotations

from tests.dialects.gemini import GeminiSpeaker
from tests.dialects.openai import ChatSpeaker
from tests.dialects.speakers import Asked, Counts, Speaker, Text
from tests.upstream import Request, Script, Step, Upstream

KEY = "sk-test-key-SENTINEL"
"""What Parley sends to the upstream; it must appear nowhere else."""

GEMINI, CHAT = GeminiSpeaker(), ChatSpeaker()
KINDS = {
    "spring-boot": ("gemini", GEMINI),
    "express": ("openai", CHAT),
    "vision": ("openai", CHAT),
    "roleplay": ("openrouter", CHAT),
    "negotiate": ("openai", CHAT),
    "ui": ("openai", CHAT),
}
"""By product: the vendor, and who speaks like it."""

PROVIDERS = {
    "gemini": 'kind = "gemini"\nbase_url = "http://127.0.0.1:{port}/v1beta"',
    "openai": 'kind = "openai"\nbase_url = "http://127.0.0.1:{port}/v1"',
    "openrouter": 'kind = "openai"\nprofile = "openrouter"\nbase_url = "http://127.0.0.1:{port}/api/v1"',
}


class Model:
    """The vendor's side of one product. Without `says` it answers "Hello, world"."""

    def __init__(self, product: str, upstream: Upstream) -> None:
        self.vendor, self.speaker = KINDS[product]
        self.upstream = upstream
        self.says("Hello", ", ", "world")

    @property
    def requests(self) -> list[Request]:
        """What Parley has sent."""
        return self.upstream.requests

    def asked(self) -> list[Asked]:
        """The requests, independently of the dialect."""
        return [self.speaker.asked(request.json) for request in self.requests]

    def says(self, *steps: str | Step) -> None:
        """Answer all later requests with these pieces of text, and waits or faults between them."""
        self.upstream.reply_with(self.script(*steps))

    def script(self, *steps: str | Step, counts: Counts | None = None) -> Script:
        """An answer of these steps."""
        return self.speaker.scripted(spoken(self.speaker, *steps, counts=counts))


def spoken(speaker: Speaker, *steps: str | Step, counts: Counts | None = None) -> list[Step]:
    """An answer's events with other steps in between."""
    texts = [Text(step) for step in steps if isinstance(step, str)]
    events = iter(speaker.speak(*texts, counts=counts or Counts()).events)
    out: list[Step] = [next(events)] if speaker.name == "chat" else []  # its first event has the role
    out += [next(events) if isinstance(step, str) else step for step in steps]
    return [*out, *events]


def model_table(alias: str, product: str, port: int) -> str:
    """The vendor of a product at the port of an upstream, and a model of it."""
    vendor, _ = KINDS[product]
    return f"""
[providers.{vendor}]
{PROVIDERS[vendor].format(port=port)}
api_key = "env:UPSTREAM_KEY"
retries = 0
timeouts = {{ idle = 300 }} # a backend that starts again may take a minute on a busy machine
[models.{alias}]
provider = "{vendor}"
name = "vendor/test-1"
images = true
context_tokens = 128000
max_output_tokens = 16384
prices = {{ prompt = 2.0, cached_prompt = 0.5, completion = 8.0 }}
"""
