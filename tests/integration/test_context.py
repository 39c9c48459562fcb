"""What a model is shown of a long conversation, and what a caller sees where it does not fit."""

import asyncio
import json

from parley.v1 import chat_pb2, resources_pb2
from parley_server.cli import main

from tests.clock import until
from tests.integration.served import ask, error_reason, new_message, refused, text_of
from tests.upstream import Script, Wait, answer, chunk, done, finish, refusal, role, text, tool_call, usage

OPENAI = 'profile = "openai"'
"""System messages may stand anywhere, so that requests show the prompt as it is built."""
Policy = resources_pb2.ContextPolicy
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200))


def shown(upstream, number=-1):
    """The messages of a request as (role, content)."""
    return [(each["role"], each["content"]) for each in upstream.requests[number].json["messages"]]


def history(turns, words):
    return [new_message(name, f"{at} {words}") for at in range(turns) for name in ("user", "assistant")]


async def test_s0_7_whole_history_is_sent_up_to_the_budget_and_trimmed_over_it(serve, upstream):
    """10,000 tokens allow for the whole of a short conversation and for the newest part of a long one."""
    server = await serve(provider=OPENAI)
    short = await server.new_conversation(history(50, "x" * 100), context=Policy(max_tokens=10_000))
    await server.stream("Next", conversation_id=short.id).end()
    assert len(shown(upstream)) == 101
    long = await server.new_conversation(history(500, "x" * 100), context=Policy(max_tokens=10_000))
    first = []
    for _ in range(3):
        await server.stream("Next", conversation_id=long.id).end()
        messages = shown(upstream)
        size = sum(len(content) for _, content in messages)
        assert 0.6 * 10_000 < 0.4 * size + 8 * len(messages) < 10_000
        first.append(messages[0])
    assert first[0][0] == "user"
    assert len(set(first)) == 1  # the cut stands still, so that the provider's cache is hit


async def test_s0_7_a_reminder_is_repeated_every_50_messages_and_prefixes_stay_equal(serve, upstream):
    server = await serve(provider=OPENAI)
    upstream.reply_with(Script([role(), text("Yes"), finish(), usage(5000, 1, cached=4000), done()]))
    policy = Policy(reminder="Stay in character.", reminder_interval=50)
    made = await server.new_conversation(history(60, "x"), context=policy, system=["You are Ada."])
    watch = await server.stream("Go on", conversation_id=made.id).end()
    reminders = [at for at, (role_, _) in enumerate(shown(upstream)) if role_ == "system"]
    assert reminders == [0, 51, 102]  # before messages 51 and 101
    assert watch.terminal.finished.usage.cached_prompt_tokens == 4000
    await server.stream("And on", conversation_id=made.id).end()
    before, after = upstream.requests[-2].json["messages"], upstream.requests[-1].json["messages"]
    assert json.dumps(after).startswith(json.dumps(before)[:-1])
    assert upstream.requests[-2].json["prompt_cache_key"] == upstream.requests[-1].json["prompt_cache_key"]


async def test_s0_7_a_summary_replaces_what_does_not_fit_and_delays_no_token(serve, upstream):
    allowed = asyncio.Event()

    def choose(request):
        if "Summarize the conversation" in request.json["messages"][0]["content"]:
            return Script([role(), Wait(allowed), text("Ada likes tea."), finish(), usage(900, 5), done()])
        return answer("Yes")

    upstream.reply_with(choose)
    server = await serve(provider=OPENAI)
    policy = Policy(max_tokens=2000, overflow=Policy.OVERFLOW_SUMMARIZE)
    made = await server.new_conversation(history(20, "x" * 200), context=policy)
    for _ in range(2):  # the summary is still being written
        assert (await server.stream("Next", conversation_id=made.id).end()).text == "Yes"
        assert not any("tea" in content for _, content in shown(upstream))
    allowed.set()
    await until(lambda: server.sql("select count(*) from summary") == [(1,)])
    await server.stream("Next", conversation_id=made.id).end()
    (name, content), *rest = shown(upstream)
    assert (name, content.endswith("Ada likes tea.")) == ("system", True)
    assert 2 < len(rest) < 20
    assert server.sql("select kind, prompt_tokens, completion_tokens from usage where kind <> 'reply'") == [
        ("summary", 900, 5)
    ]


async def test_s0_8_the_system_instruction_is_built_from_the_scenario_s_sections(serve, upstream):
    server = await serve(provider=OPENAI)
    scenario = ["You play Ada, an innkeeper.", "Traits: curious, kind.", "Place: a harbour in winter."]
    made = await server.new_conversation(system=scenario)
    await server.stream("Good evening", conversation_id=made.id).end()
    assert shown(upstream) == [("system", "\n---\n".join(scenario)), ("user", "Good evening")]
    await server.stream("Next scene", conversation_id=made.id, system=[scenario[0], "Place: the attic."]).end()
    assert shown(upstream)[0] == ("system", "You play Ada, an innkeeper.\n---\nPlace: the attic.")


async def test_s1_3_a_prompt_is_sections_then_history_then_post_system_then_the_new_message(serve, upstream):
    server = await serve(provider=OPENAI)
    made = await server.new_conversation(
        [new_message("user", "Old question"), new_message("assistant", "Old answer")],
        system=["Pre", "System", "Character", "Profile"],
        post_system="Post",
    )
    await server.stream("New question", conversation_id=made.id).end()
    assert shown(upstream) == [
        ("system", "Pre\n---\nSystem\n---\nCharacter\n---\nProfile"),
        ("user", "Old question"),
        ("assistant", "Old answer"),
        ("system", "Post"),
        ("user", "New question"),
    ]


async def test_s2_1_an_image_reaches_a_model_that_takes_images_and_is_refused_for_others(server, upstream):
    looking = new_message("user", "What is this?", image=resources_pb2.Image(data=PNG))
    await server.stream("", input=[looking]).end()
    assert [part["type"] for part in shown(upstream)[0][1]] == ["text", "image_url"]
    for input_, model, reason in (
        (looking, "plain", "UNSUPPORTED_INPUT"),
        (new_message("user", image=resources_pb2.Image(data=PNG + bytes(3 * 1024 * 1024))), "test", "INPUT_TOO_LARGE"),
    ):
        error = await refused(server.chat.StreamReply(ask("", input=[input_], model=model)))
        assert error.reason == reason
    assert len(upstream.requests) == 1


async def test_s3_1_the_question_is_stored_at_once_and_the_last_ten_messages_are_shown(serve, upstream):
    server = await serve(provider=OPENAI)
    made = await server.new_conversation(history(20, "x"), context=Policy(max_messages=10))
    release = asyncio.Event()
    upstream.reply_with(Script([role(), Wait(release), text("Yes"), finish(), usage(), done()]))
    watch = server.stream("Now?", conversation_id=made.id)
    await watch.accepted()
    stored = (await server.messages(made.id)).messages
    assert (text_of(stored[0]), len(stored)) == ("Now?", 41)
    release.set()
    await watch.end()
    assert text_of((await server.messages(made.id)).messages[0]) == "Yes"
    assert [content for _, content in shown(upstream)] == [
        "15 x", "16 x", "16 x", "17 x", "17 x", "18 x", "18 x", "19 x", "19 x", "Now?",
    ]  # fmt: skip


# --- too long


OVERFLOW = refusal(
    400,
    {
        "error": {
            "message": "This model's maximum context length is 1000 tokens. However, your messages resulted in 3000.",
            "code": "context_length_exceeded",
        }
    },
)


async def test_a_prompt_that_the_provider_refuses_as_too_long_is_sent_again_once_and_shorter(serve, upstream):
    server = await serve(provider=OPENAI)
    made = await server.new_conversation(history(20, "x" * 200))
    upstream.reply_next(OVERFLOW)
    brief = chat_pb2.Sampling(max_output_tokens=100)
    watch = await server.stream("Next", conversation_id=made.id, sampling=brief).end()
    assert watch.text == "Hello, world"
    counts = [len(request.json["messages"]) for request in upstream.requests]
    assert counts[0] == 41
    assert 3 <= counts[1] < 20
    await server.stream("Next", conversation_id=made.id, sampling=brief).end()
    assert len(upstream.requests) == 3  # the limit is known now
    assert len(upstream.requests[2].json["messages"]) < 20


async def test_a_message_that_alone_is_too_long_fails_with_its_limit(serve, upstream):
    server = await serve(provider=OPENAI)
    upstream.reply_with(OVERFLOW)
    watch = await server.stream("x" * 9000).end()
    failed = watch.terminal.failed
    assert failed.error.reason == error_reason("PROVIDER_CONTEXT_TOO_LARGE")
    assert (failed.error.retryable, failed.error.metadata["limit"]) == (False, "1000 tokens")
    assert len(upstream.requests) == 1


async def test_a_message_above_the_caller_s_own_budget_is_refused_before_it_is_accepted(server):
    made = await server.new_conversation(context=Policy(max_tokens=500))
    error = await refused(server.chat.StreamReply(ask("x" * 2000, conversation_id=made.id)))
    assert (error.reason, error.info.metadata["limit"]) == ("CONTEXT_TOO_LARGE", "500 tokens")
    assert server.sql("select count(*) from reply") == [(0,)]


# --- settings


NARROW = """
[models.narrow]
provider = "up"
name = "vendor/narrow-1"
sampling = false
efforts = ["low", "high"]
json_schema = false
"""


async def test_hints_that_the_model_does_not_take_are_named_and_what_has_a_meaning_is_refused(serve, upstream):
    server = await serve(models=NARROW)
    sampling = chat_pb2.Sampling(temperature=0.5, seed=1, max_output_tokens=50, reasoning_effort="medium")
    watch = await server.stream(model="narrow", sampling=sampling).end()
    ignored = ["temperature", "seed", "reasoning_effort"]
    assert watch.chunks[0].accepted.ignored_settings == ignored
    assert (await server.get(watch.reply_id)).ignored_settings == ignored
    body = upstream.requests[0].json
    assert (body["max_tokens"], body["reasoning_effort"]) == (50, "low")
    assert not {"temperature", "seed"} & body.keys()
    error = await refused(server.chat.StreamReply(ask(model="narrow", json_schema="{}")))
    assert (error.reason, error.fields) == ("UNSUPPORTED_INPUT", ["json_schema"])


# --- the command


async def test_the_command_shows_the_next_prompt_beside_a_running_server(serve, upstream, capsys, monkeypatch):
    server = await serve(provider=OPENAI)
    made = await server.new_conversation(
        history(20, "x" * 200), system=["You are Ada."], context=Policy(max_tokens=1000)
    )
    monkeypatch.setenv("UPSTREAM_KEY", "sk-test-key-SENTINEL")
    monkeypatch.delenv("PARLEY_RECORDINGS", raising=False)  # of the tests alone: a command refuses unknown variables
    options = [
        "--config", str(server.folder / "parley.toml"),
        "--database-url", f"sqlite+aiosqlite:///{server.folder / 'parley.db'}",
    ]  # fmt: skip

    async def printed(*arguments):
        status = await asyncio.to_thread(main, ["prompt", made.id, *arguments, *options])
        return status, capsys.readouterr()

    before = server.sql("select count(*) from message")
    status, output = await printed("--text", "Next")
    lines = output.out.splitlines()
    assert status == 0
    assert lines[0] == "model     test (vendor/test-1 at up)"
    assert lines[1].endswith(" by estimate, at most 1000")
    assert lines[4].split()[:2] == ["system", "-"]
    assert lines[4].endswith("end of a part to cache")
    assert lines[-1].startswith("left out  ")
    assert "over the token budget" in lines[-1]
    status, output = await printed("--text", "Next", "--body")
    await server.stream("Next", conversation_id=made.id).end()
    assert json.loads(output.out) == upstream.requests[-1].json
    assert "SENTINEL" not in output.out
    assert server.sql("select count(*) from message") == [(before[0][0] + 2,)]
    status, output = await printed("--model", "scripted", "--body")
    assert (status, output.out) == (0, "the provider typewriter sends no request\n")
    status, output = await printed("--tenant", "other")
    assert (status, output.out, output.err) == (2, "", "parley prompt: conversation not found\n")


# --- kept items


DETAILS = [{"type": "reasoning.encrypted", "data": "c2VjcmV0", "id": "r1", "format": "x", "index": 0}]


def weather_call():
    """A tool call with reasoning that the vendor wants back."""
    thinking = chunk({"reasoning_details": DETAILS})
    called = tool_call(0, '{"city":"Oslo"}', call_id="call_1", name="weather")
    return Script([role(), thinking, called, finish("tool_calls"), usage(), done()])


async def test_what_the_vendor_wants_back_is_sent_within_the_tool_turn_and_not_after_it(serve, upstream):
    server = await serve(provider='profile = "openrouter"')
    tools = [chat_pb2.Tool(name="weather", parameters="{}")]
    upstream.reply_next(weather_call())
    watch = await server.stream("Weather?", tools=tools).end()
    (message,) = (await server.messages(watch.conversation_id)).messages[:1]
    call_id = message.parts[-1].tool_call.id
    result = new_message("tool", tool_result=resources_pb2.ToolResult(tool_call_id=call_id, content="5 degrees"))
    await server.stream("", input=[result], conversation_id=watch.conversation_id, tools=tools).end()
    calling = [each for each in upstream.requests[-1].json["messages"] if each.get("tool_calls")]
    assert [each["reasoning_details"] for each in calling] == [DETAILS]
    await server.stream("Thanks", conversation_id=watch.conversation_id, tools=tools).end()
    calling = [each for each in upstream.requests[-1].json["messages"] if each.get("tool_calls")]
    assert len(calling) == 1
    assert "reasoning_details" not in calling[0]
