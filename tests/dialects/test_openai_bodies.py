"""Bodies for OpenAI have the types of its SDK, which sends the same for them."""

import pytest
from parley_server.settings import ApiKey, OpenAISettings

from tests.dialects.openai import ChatSpeaker, ResponsesSpeaker
from tests.dialects.prompts import CONVERSATIONS, PROMPTS, SETTINGS
from tests.dialects.speakers import Text
from tests.dialects.typed import typed
from tests.integration.providers.recording import RecordingSink, provider_at
from tests.sdks import openai_client

pytestmark = pytest.mark.xdist_group("openai-sdk")  # one process imports it
CHAT, RESPONSES = ChatSpeaker(), ResponsesSpeaker()


@pytest.fixture(scope="module")
def types():
    """The SDK's types of both bodies. Each process of a parallel run imports this file, but one needs the SDK."""
    from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming
    from openai.types.responses.response_create_params import ResponseCreateParamsStreaming

    return {CHAT: CompletionCreateParamsStreaming, RESPONSES: ResponseCreateParamsStreaming}


@pytest.mark.parametrize("speaker", [CHAT, RESPONSES], ids=lambda speaker: speaker.name)
@pytest.mark.parametrize(("conversation", "settings"), PROMPTS)
async def test_bodies(speaker, upstream, types, conversation, settings):
    upstream.reply_with(speaker.script(Text("ok")))
    provider = provider_at(upstream.url, OpenAISettings(profile="openai", api_key=ApiKey("sk-secret")))
    prompt = speaker.prompt(*CONVERSATIONS[conversation], **SETTINGS[settings])
    await provider.generate(prompt, RecordingSink())
    await provider.close()
    ours = upstream.requests[-1]
    assert typed(ours.json, types[speaker]) == ours.json
    async with openai_client(upstream.url) as client:
        create = client.chat.completions.create if speaker is CHAT else client.responses.create
        async for _ in await create(**ours.json):
            pass
    theirs = upstream.requests[-1]
    assert theirs is not ours
    assert (theirs.path, theirs.json) == (ours.path, ours.json)
    same = ("authorization", "content-type", "accept")
    assert [theirs.headers[name] for name in same] == [ours.headers[name] for name in same]
