"""The request to an endpoint, and the fallbacks for an endpoint that refuses parts of it, over a socket."""

import json

import pytest
from parley_server.errors import ProviderRejected
from parley_server.settings import ApiKey, OpenAISettings

from tests.integration.providers.recording import RecordingSink, prompt, provider_at
from tests.upstream import Script, answer, refusal

KEY = ApiKey("sk-secret")
UNKNOWN = {"detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]}
BARE = Script([b"Unrecognized field: stream_options"], status=400, headers={"Content-Type": "text/plain"})


def without_stream_options(refused: Script):
    """Refuses each request that has `stream_options`."""
    return lambda request: refused if "stream_options" in request.json else answer("Hi", tokens=None)


async def asked(provider):
    sink = RecordingSink()
    await provider.generate(prompt(), sink)
    return sink.content


@pytest.fixture
async def provider(upstream):
    made = provider_at(upstream.url)
    yield made
    await made.close()


@pytest.mark.parametrize("refused", [refusal(400, UNKNOWN), refusal(422, UNKNOWN), BARE])
async def test_stream_options_are_dropped_for_an_endpoint_that_refuses_them(upstream, provider, refused):
    upstream.reply_with(without_stream_options(refused))
    assert [await asked(provider) for _ in range(3)] == ["Hi"] * 3
    sent = ["stream_options" in request.json for request in upstream.requests]
    assert sent == [True, False, False, False]


async def test_other_refusals_are_raised_and_keep_stream_options(upstream, provider):
    upstream.reply_next(refusal(400, {"error": {"message": "no", "code": "invalid_prompt"}}))
    with pytest.raises(ProviderRejected):
        await asked(provider)
    assert await asked(provider) == "Hello, world"
    assert ["stream_options" in request.json for request in upstream.requests] == [True, True]


async def test_a_refusal_without_stream_options_is_raised_and_not_remembered(upstream, provider):
    upstream.reply_next(refusal(400, UNKNOWN), refusal(400))
    with pytest.raises(ProviderRejected):
        await asked(provider)
    await asked(provider)
    assert ["stream_options" in request.json for request in upstream.requests] == [True, False, True]


@pytest.mark.parametrize(
    ("profile", "headers"),
    [
        ("generic", {"authorization": "Bearer sk-secret", "api-key": None}),
        ("azure", {"authorization": None, "api-key": "sk-secret"}),
    ],
)
async def test_the_key_is_sent_in_the_header_of_the_profile(upstream, profile, headers):
    provider = provider_at(upstream.url, OpenAISettings(profile=profile, api_key=KEY))
    await asked(provider)
    await provider.close()
    (request,) = upstream.requests
    assert {name: request.headers.get(name) for name in headers} == headers


async def test_configured_headers_are_sent(upstream):
    settings = OpenAISettings(api_key=KEY, headers={"X-Title": "parley", "User-Agent": "mine"})
    provider = provider_at(upstream.url, settings)
    await asked(provider)
    await provider.close()
    (request,) = upstream.requests
    assert [request.headers[name] for name in ("x-title", "user-agent", "authorization")] == [
        "parley",
        "mine",
        "Bearer sk-secret",
    ]


async def test_the_body_for_openai(upstream):
    provider = provider_at(upstream.url, OpenAISettings(profile="openai", api_key=KEY))
    await provider.generate(prompt(cache_key="k"), RecordingSink())
    await provider.close()
    (request,) = upstream.requests
    assert json.loads(request.body) == {
        "model": "acme-1",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True, "include_obfuscation": False},
        "store": False,
        "prompt_cache_key": "k",
    }
