"""Each test here runs for every dialect."""

import pytest

from tests.dialects.anthropic import MessagesSpeaker
from tests.dialects.gemini import GeminiSpeaker
from tests.dialects.openai import ChatSpeaker, ResponsesSpeaker
from tests.upstream import Upstream

SPEAKERS = (ChatSpeaker(), ResponsesSpeaker(), MessagesSpeaker(), GeminiSpeaker())


@pytest.fixture(params=SPEAKERS, ids=lambda speaker: speaker.name)
def speaker(request):
    return request.param


@pytest.fixture
async def upstream():
    async with Upstream() as server:
        yield server


@pytest.fixture
async def provider(speaker, upstream):
    made = speaker.provider(upstream.url, after_finish_s=0.2)
    yield made
    await made.close()
