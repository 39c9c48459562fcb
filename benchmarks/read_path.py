"""CPU that reading a provider costs per token, from the socket to the sink, in this process alone.

The upstream in Node streams as fast as it can (or one token every `--pace-ms`) to `--streams` replies at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import subprocess
from pathlib import Path

import uvloop
from parley_server.core.clock import SystemClock
from parley_server.core.model import Model, Prompt, PromptMessage, TextPart, Usage
from parley_server.providers.openai.provider import OpenAIProvider
from parley_server.providers.policies.time_limits import TimeLimits
from parley_server.settings import OpenAISettings

UPSTREAM = Path(__file__).with_name("upstream.js")
CHARACTERS_PER_TOKEN = 9


def prompt(model: str) -> Prompt:
    """What is asked: the upstream reads from the model's name how much to say, and how fast."""
    return Prompt(
        model=Model(alias="bench", provider="bench", name=model),
        messages=(PromptMessage(role="user", parts=(TextPart(text="Say something."),)),),
    )


class CountingSink:
    """Takes everything and keeps nothing."""

    def __init__(self) -> None:
        self.characters = 0
        self.flushes = 0

    def text(self, text: str) -> None:
        self.characters += len(text)

    def reasoning(self, text: str, signature: bytes = b"") -> None:
        pass

    def tool_call(self, index: int, call_id: str, name: str, arguments: str) -> None:
        pass

    def usage(self, usage: Usage) -> None:
        pass

    def flush(self) -> None:
        self.flushes += 1


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def run(provider: TimeLimits, options: argparse.Namespace) -> tuple[float, float]:
    """Microseconds of CPU per token, and tokens per read."""
    sinks = [CountingSink() for _ in range(options.streams)]
    asked = prompt(f"t{options.tokens}-p{options.pace_ms}")
    before = cpu_s()
    await asyncio.gather(*[provider.generate(asked, sink) for sink in sinks])
    spent = cpu_s() - before
    assert all(sink.characters == options.tokens * CHARACTERS_PER_TOKEN for sink in sinks)
    total = options.streams * options.tokens
    return spent / total * 1e6, total / sum(sink.flushes for sink in sinks)


async def measure(options: argparse.Namespace, port: int) -> None:
    """Warm up, run, and print."""
    endpoint = OpenAIProvider("bench", OpenAISettings(base_url=f"http://127.0.0.1:{port}/v1"))
    provider = TimeLimits(endpoint, first_token_s=30, idle_s=60, clock=SystemClock())
    await run(provider, options)
    results = [await run(provider, options) for _ in range(options.runs)]
    await endpoint.close()
    per_token = sorted(result[0] for result in results)
    median = statistics.median(per_token)
    print(
        f"{options.streams} streams of {options.tokens} tokens: {median:.2f} us of CPU per token "
        f"({per_token[0]:.2f} to {per_token[-1]:.2f}), {median * options.tokens / 1000:.2f} ms per reply, "
        f"{results[-1][1]:.1f} tokens per read"
    )


def main() -> None:
    """Read the options, start the upstream, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=500)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--pace-ms", type=int, default=0)
    parser.add_argument("--asyncio", action="store_true", help="plain asyncio instead of uvloop")
    options = parser.parse_args()
    command = ["node", str(UPSTREAM)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as upstream:
        assert upstream.stdout is not None
        port = json.loads(upstream.stdout.readline())["port"]
        factory = asyncio.new_event_loop if options.asyncio else uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(measure(options, port))


if __name__ == "__main__":
    main()
