"""Clients of vendors' SDKs at a local upstream, without retries.

They check no certificates, since reading those of the machine takes 50 ms of CPU for each client. An SDK is imported at
its first use, since that takes a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import anthropic
    import openai
    from google import genai

KEY = "sk-secret"


def openai_client(url: str) -> openai.AsyncOpenAI:
    """To be closed."""
    import openai

    http = openai.DefaultAsyncHttpxClient(verify=False)
    return openai.AsyncOpenAI(api_key=KEY, base_url=url, max_retries=0, http_client=http)


def anthropic_client(url: str) -> anthropic.AsyncAnthropic:
    """To be closed."""
    import anthropic

    http = anthropic.DefaultAsyncHttpxClient(verify=False)
    return anthropic.AsyncAnthropic(api_key=KEY, base_url=url.removesuffix("/v1"), max_retries=0, http_client=http)


def gemini_client(url: str) -> genai.Client:
    """To be closed, and its `aio` as well."""
    from google import genai
    from google.genai import types

    unchecked = {"verify": False}
    options = types.HttpOptions(
        base_url=url.removesuffix("/v1"), api_version="v1", client_args=unchecked, async_client_args=unchecked
    )
    return genai.Client(api_key=KEY, http_options=options)
