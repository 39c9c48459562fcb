"""Where servers of OpenAI's dialect differ in what they take: switches, and a profile for each known host."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from parley_server.core.model import Value

MaxTokensField = Literal["max_tokens", "max_completion_tokens"]
ToolIds = Literal["long", "short"]
Auth = Literal["bearer", "api-key"]


class Switches(Value, frozen=True, kw_only=True):
    """What one endpoint takes and needs. The defaults are those of the profile `generic`.

    max_tokens_field: the field of the output limit.
    ask_usage: send `stream_options.include_usage`; where a server refuses it by name, it is left out from then on.
    no_store: send `store: false`. no_obfuscation: send `stream_options.include_obfuscation: false`.
    cache_key: send `prompt_cache_key`.
    system_anywhere: system messages may stand after the first message.
    alternate: user and assistant must take strict turns.
    prefill: the last message may be the assistant's.
    tool_id: ids of tool calls have 1 to 40 of A-Z, a-z, 0-9, _ and - ("long"), or 9 letters and digits ("short").
    done_is_finish: `[DONE]` completes an answer that has no finish reason and no usage.
    auth: the header that holds the key, `Authorization: Bearer` or `api-key`.
    """

    max_tokens_field: MaxTokensField = "max_tokens"
    ask_usage: bool = True
    no_store: bool = False
    no_obfuscation: bool = False
    cache_key: bool = False
    system_anywhere: bool = False
    alternate: bool = True
    prefill: bool = True
    tool_id: ToolIds = "short"
    done_is_finish: bool = False
    auth: Auth = "bearer"


_LIKE_OPENAI = Switches(system_anywhere=True, alternate=False, tool_id="long")


def _like_openai(**changes: Any) -> Switches:
    return msgspec.structs.replace(_LIKE_OPENAI, **changes)


PROFILES: dict[str, Switches] = {
    "openai": _like_openai(
        max_tokens_field="max_completion_tokens", no_store=True, no_obfuscation=True, cache_key=True
    ),
    "azure": _like_openai(max_tokens_field="max_completion_tokens", cache_key=True, auth="api-key"),
    "openrouter": _like_openai(ask_usage=False, prefill=False),
    "mistral": Switches(ask_usage=False, prefill=False),
    "deepseek": _like_openai(prefill=False),
    "xai": _like_openai(prefill=False),
    "groq": _like_openai(prefill=False),
    "generic": Switches(),
}
_HOSTS = {
    "api.openai.com": "openai",
    "openrouter.ai": "openrouter",
    "api.mistral.ai": "mistral",
    "api.deepseek.com": "deepseek",
    "api.x.ai": "xai",
    "api.groq.com": "groq",
}
_AZURE = (".openai.azure.com", ".services.ai.azure.com")


def profile_of(host: str) -> str:
    """The name of the profile of a host of `base_url`."""
    host = host.lower().rstrip(".")
    return "azure" if host.endswith(_AZURE) else _HOSTS.get(host, "generic")


def switches_of(host: str, profile: str | None = None, changes: dict[str, Any] | None = None) -> Switches:
    """The switches of an endpoint: those of its profile (None: by its host), but for `changes`."""
    return msgspec.structs.replace(PROFILES[profile or profile_of(host)], **(changes or {}))
