"""A real server of llama.cpp, asked through its three APIs: chat completions, Responses, Anthropic's Messages.

The model is small and the machine may be busy: answers have few tokens, and what they say does not matter.
"""

from __future__ import annotations

import asyncio

import pytest
from parley.v1 import chat_pb2

from tests.integration.served import COMPLETED, FAILED, ask, error_reason, new_message, reason, refused, text_of
from tests.llama import CONTEXT_TOKENS, LlamaServer, require_llama_cpp

LIMIT_S = 110.0
MODELS = """
[providers.llama]
kind = "openai"
base_url = "{url}/v1"
timeouts = {{ first_token = 100, idle = 100 }}
[providers.messages]
kind = "anthropic"
base_url = "{url}"
version = "2023-06-01"
timeouts = {{ first_token = 100, idle = 100 }}
[models.chat]
provider = "llama"
name = "local"
images = false
[models.responses]
provider = "llama"
name = "local"
api = "responses"
[models.messages]
provider = "messages"
name = "local"
max_output_tokens = 8
"""
# llama.cpp's Responses API reports an answer that was cut by the output limit as complete.
LIMIT_REACHED = {"chat": "MAX_TOKENS", "responses": "STOP", "messages": "MAX_TOKENS"}
COUNT = "Count from one to one hundred."

pytestmark = [pytest.mark.xdist_group("llama-cpp"), pytest.mark.timeout(300)]
each_api = pytest.mark.parametrize("model", LIMIT_REACHED)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    require_llama_cpp()
    with LlamaServer(tmp_path_factory.mktemp("llama")) as server:
        yield server


@pytest.fixture
async def server(serve, llama):
    return await serve(models=MODELS.format(url=llama.url))


async def answer_of(server, model, text=COUNT, *, tokens=6, **fields):
    """The whole stream of a short answer that is the same each time."""
    sampling = chat_pb2.Sampling(max_output_tokens=tokens, temperature=0, stop=fields.pop("stop", ()))
    return await server.stream(text, model=model, sampling=sampling, **fields).end(limit_s=LIMIT_S)


@each_api
async def test_text_and_usage(server, llama, model):
    watch = await answer_of(server, model)
    reply, finished = await server.get(watch.reply_id), watch.terminal.finished
    prompt = await asyncio.to_thread(llama.count, [{"role": "user", "content": COUNT}])
    assert watch.text
    assert (reply.state, text_of(reply), finished.reason) == (COMPLETED, watch.text, reason(LIMIT_REACHED[model]))
    assert (finished.usage.prompt_tokens, finished.usage.completion_tokens) == (prompt, 6)
    assert not finished.usage.estimated
    again = (await answer_of(server, model)).terminal.finished.usage
    assert again.prompt_tokens == prompt
    assert 0 < again.cached_prompt_tokens < prompt


@pytest.mark.parametrize("model", ["chat", "messages"])
async def test_a_stop_text_ends_the_answer(server, model):
    watch = await answer_of(server, model, tokens=20, stop=[" "])
    assert watch.terminal.finished.reason == reason("STOP")
    assert " " not in watch.text
    assert watch.terminal.finished.usage.completion_tokens < 20


async def test_the_responses_api_takes_no_stop_text(server):
    stop = chat_pb2.Sampling(stop=[" "])
    refusal = await refused(server.chat.StreamReply(ask(model="responses", sampling=stop)))
    assert refusal.reason == "UNSUPPORTED_INPUT"


@each_api
async def test_a_prompt_is_shortened_after_llama_cpp_has_refused_it(server, llama, model):
    history = [new_message(role, "word " * 100) for _ in range(10) for role in ("user", "assistant")]
    made = await server.new_conversation(history)
    watch = await answer_of(server, model, conversation_id=made.id)
    finished = watch.terminal.finished
    assert finished.reason == reason(LIMIT_REACHED[model])
    assert CONTEXT_TOKENS / 4 < finished.usage.prompt_tokens < CONTEXT_TOKENS


@each_api
async def test_a_message_that_does_not_fit_fails_with_the_limit_of_llama_cpp(server, model):
    watch = await answer_of(server, model, "word " * 1200)
    error = watch.terminal.failed.error
    assert (await server.get(watch.reply_id)).state == FAILED
    assert (error.reason, error.retryable) == (error_reason("PROVIDER_CONTEXT_TOO_LARGE"), False)
    assert error.metadata["limit"] == f"{CONTEXT_TOKENS} tokens"


@each_api
async def test_a_template_that_requires_alternation_takes_any_history(server, llama, model):
    unrepaired = {"messages": [{"role": "user", "content": "Hi"}] * 2}
    status, error = await asyncio.to_thread(llama.post, "/v1/chat/completions", unrepaired)
    assert status >= 400
    assert "must alternate" in str(error)
    history = [new_message(role, "Hi") for role in ("assistant", "user", "user", "assistant", "assistant", "user")]
    made = await server.new_conversation(history, system=["Be kind."], post_system="Be brief.")
    watch = await answer_of(server, model, conversation_id=made.id)
    assert watch.kinds[-1] == "finished", watch.terminal
