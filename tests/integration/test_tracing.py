"""Spans of a real server, received over OTLP: what they show, how they belong together, and a collector that fails."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
import urllib.request

import pytest
from parley.v1 import chat_pb2, resources_pb2
from parley_server.core.ids import id_bytes
from parley_server.errors import NotConfigured
from parley_server.telemetry.logs import configure_logging

from tests.clock import until
from tests.integration.failover import MODELS
from tests.integration.served import ask, new_message, refused
from tests.otlp import Collector
from tests.ports import free_port
from tests.processes import clean_environment
from tests.upstream import Script, Upstream, Wait, answer, done, finish, refusal, role, text, usage

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
PROMPT, ANSWER = "PROMPT-7f3a", "ANSWER-91bc"
CALL = "parley.v1.Chat/StreamReply"


@pytest.fixture
async def collector():
    async with Collector() as started:
        yield started


@pytest.fixture
def start(collector, serve, monkeypatch):
    """Starts a server that exports its traces: `await start({"OTEL_...": "..."}, models=...)`."""

    async def start(environment=None, **settings):
        variables = collector.environment | (environment or {})
        for name, value in variables.items():
            monkeypatch.setenv(name, value)  # for the library of OpenTelemetry
        return await serve(environment=variables, **settings)

    return start


@pytest.fixture
def lines():
    """The log lines so far: `lines()`."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logging("info", "json", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:], root.level = before
    logging.captureWarnings(capture=False)


async def reply_to(server, traceparent="", *, words=PROMPT, **fields):
    """The id of a reply that has ended, asked for with this trace context by the end user ada."""
    metadata = [("traceparent", traceparent)] if traceparent else []
    call = server.caller("ada").chat.StreamReply(ask(words, **fields), metadata=metadata)
    first, *_ = [chunk async for chunk in call]
    return first.reply_id


def counted(server, outcome):
    """How many spans had this outcome."""
    return server.app.telemetry.registry.get_sample_value("parley_trace_spans_total", {"outcome": outcome}) or 0


async def test_a_reply_is_three_spans_which_are_linked(start, collector, upstream, lines):
    upstream.reply_with(Script([role(), text(ANSWER), finish(), usage(40, 7, cached=30), done()]))
    server = await start({"OTEL_BSP_SCHEDULE_DELAY": "600000"})
    reply_id = await reply_to(server, SAMPLED, sampling=chat_pb2.Sampling(temperature=0.5, max_output_tokens=50))
    conversation = (await server.get(reply_id)).conversation_id
    assert collector.spans == []
    await server.stop()  # sends what waits
    (call,) = collector.named(CALL)
    (reply,) = collector.named("parley.reply")
    (attempt,) = collector.named("chat vendor/test-1")
    assert (call.kind, call.trace_id, call.parent_id, call.status) == ("SERVER", TRACE, PARENT, "UNSET")
    assert (reply.kind, reply.parent_id, reply.status) == ("INTERNAL", "", "UNSET")
    assert reply.trace_id == id_bytes(reply_id).hex()
    assert reply.links == ((TRACE, call.span_id),)
    assert (attempt.kind, attempt.trace_id, attempt.parent_id) == ("CLIENT", reply.trace_id, reply.span_id)
    (request,) = upstream.requests
    assert request.headers["traceparent"] == f"00-{attempt.trace_id}-{attempt.span_id}-03"
    (line,) = [line for line in lines() if line["event"] == "call" and line["method"] == f"/{CALL}"]
    assert call.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": CALL,
        "rpc.response.status_code": "OK",
        "parley.call.id": line["call_id"],
        "parley.tenant": "default",
        "parley.reply.id": reply_id,
    }
    first = reply.attributes.pop("parley.reply.time_to_first_token")
    assert reply.attributes == {
        "gen_ai.conversation.id": conversation,
        "parley.reply.id": reply_id,
        "parley.reply.state": "COMPLETED",
        "parley.reason": "STOP",
        "parley.tenant": "default",
        "parley.model": "test",
    }
    first_chunk = attempt.attributes.pop("gen_ai.response.time_to_first_chunk")
    assert 0 < first_chunk <= attempt.duration_s
    assert first > 0
    assert attempt.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "up",
        "gen_ai.request.model": "vendor/test-1",
        "gen_ai.request.stream": True,
        "gen_ai.request.max_tokens": 50,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.conversation.id": conversation,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.model": "test",
        "gen_ai.usage.input_tokens": 40,
        "gen_ai.usage.output_tokens": 7,
        "gen_ai.usage.cache_read.input_tokens": 30,
        "server.address": "127.0.0.1",
        "server.port": upstream.port,
        "parley.provider": "up",
        "parley.attempt.number": 1,
        "parley.attempt.outcome": "OK",
    }
    assert reply.resource["service.name"] == "parley"
    exported = str(collector.requests)
    assert not any(secret in exported for secret in (PROMPT, ANSWER, "ada", "sk-test"))
    # Each line that was written within an operation has its ids.
    assert (line["trace_id"], line["span_id"], line["traceparent"]) == (TRACE, call.span_id, SAMPLED)
    (line,) = [line for line in lines() if line["event"] == "reply"]
    assert (line["trace_id"], line["span_id"]) == (reply.trace_id, reply.span_id)
    assert all("trace_id" not in line for line in lines() if line["event"] in ("serving", "stopped"))


async def test_what_the_caller_does_not_sample_is_not_exported(start, collector, upstream, lines):
    server = await start()
    reply_id = await reply_to(server, UNSAMPLED)
    for wrong in ("nonsense", f"00-{'0' * 32}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01", ""):
        await reply_to(server, wrong)
    await server.stop()
    assert TRACE not in {span.trace_id for span in collector.spans}
    roots = collector.named(CALL)
    assert [span.parent_id for span in roots] == [""] * 4
    assert len({span.trace_id for span in roots}) == 4
    assert len(collector.named("parley.reply")) == len(collector.named("chat vendor/test-1")) == 4
    trace_id = id_bytes(reply_id).hex()
    sent = upstream.requests[0].headers["traceparent"].split("-")
    assert (sent[1], int(sent[3], 16) & 1) == (trace_id, 0)
    shown = {line["event"]: line["trace_id"] for line in lines() if line.get("reply_id") == reply_id}
    assert shown == {"call": TRACE, "reply": trace_id}


async def test_a_sampler_of_the_environment_decides_once_for_a_call_and_its_reply(start, collector):
    server = await start({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"})
    for _ in range(12):
        await reply_to(server)
    await server.stop()
    calls = {(span.trace_id, span.span_id) for span in collector.named(CALL)}
    assert {link for span in collector.named("parley.reply") for link in span.links} == calls
    assert len(collector.named("chat vendor/test-1")) == len(calls)
    assert 0 < len(calls) < 12


async def test_each_attempt_is_a_span_of_the_same_reply(start, collector, upstream, lines):
    upstream.reply_with(refusal(503))
    async with Upstream() as far:
        far.reply_with(answer("from far"))
        server = await start(models=MODELS.format(near=upstream.url, far=far.url, rules="retries = 0"))
        await reply_to(server, SAMPLED, model="near")
        await server.stop()
        headers = upstream.requests[0].headers, far.requests[0].headers
    (reply,) = collector.named("parley.reply")
    (failed,), (taken,) = collector.named("chat vendor/near-1"), collector.named("chat vendor/far-1")
    assert {failed.parent_id, taken.parent_id} == {reply.span_id}
    assert (failed.status, failed.attributes["error.type"]) == ("ERROR", "PROVIDER_UNAVAILABLE")
    assert (failed.attributes["parley.attempt.number"], taken.attributes["parley.attempt.number"]) == (1, 2)
    assert failed.attributes["gen_ai.response.finish_reasons"] == ["error"]
    assert (taken.status, "error.type" in taken.attributes) == ("UNSET", False)
    assert [each["traceparent"].split("-")[2] for each in headers] == [failed.span_id, taken.span_id]
    assert reply.attributes["parley.model"] == "far"
    (line,) = [line for line in lines() if line["event"] == "provider_attempt"]
    assert (line["trace_id"], line["span_id"]) == (reply.trace_id, reply.span_id)


async def test_failed_and_cancelled_replies_and_refused_calls(start, collector, upstream):
    upstream.reply_next(refusal(400, {"error": {"message": "no"}}), Script([role(), text("x"), Wait(asyncio.Event())]))
    server = await start()
    await server.stream("Hi").end()
    watch = await server.stream("Hi").until_text("x")
    await server.cancel(watch.reply_id)
    await watch.end()
    await refused(server.chat.GetReply(chat_pb2.GetReplyRequest(reply_id="unknown")))
    await server.stop()
    failed, cancelled = (span for span in collector.named("parley.reply"))
    assert (failed.status, failed.attributes["error.type"]) == ("ERROR", "PROVIDER_REJECTED")
    assert (cancelled.status, cancelled.attributes["parley.reply.state"]) == ("UNSET", "CANCELLED")
    outcomes = [
        (span.status, span.attributes["parley.attempt.outcome"]) for span in collector.named("chat vendor/test-1")
    ]
    assert outcomes == [("ERROR", "PROVIDER_REJECTED"), ("UNSET", "CANCELLED")]
    (call,) = collector.named("parley.v1.Chat/GetReply")
    assert (call.status, call.attributes["rpc.response.status_code"]) == ("UNSET", "NOT_FOUND")
    assert call.attributes["parley.reason"] == "REPLY_NOT_FOUND"


async def test_a_summary_is_a_span_within_its_reply(start, collector, upstream):
    def choose(request):
        if "Summarize the conversation" in request.json["messages"][0]["content"]:
            return answer("Ada likes tea.")
        return answer("Yes")

    upstream.reply_with(choose)
    server = await start(provider='profile = "openai"')
    policy = resources_pb2.ContextPolicy(max_tokens=2000, overflow=resources_pb2.ContextPolicy.OVERFLOW_SUMMARIZE)
    history = [new_message(name, "x" * 200) for _ in range(20) for name in ("user", "assistant")]
    made = await server.new_conversation(history, context=policy)
    await server.stream("Next", conversation_id=made.id).end()
    (summary,) = await collector.receive("parley.summary")
    await server.stop()
    (reply,) = collector.named("parley.reply")
    assert (summary.trace_id, summary.parent_id) == (reply.trace_id, reply.span_id)
    assert summary.attributes == {"gen_ai.conversation.id": made.id, "parley.outcome": "stored"}
    attempts = collector.named("chat vendor/test-1")
    assert sorted(span.parent_id for span in attempts) == sorted([reply.span_id, summary.span_id])
    assert {span.attributes["gen_ai.conversation.id"] for span in attempts} == {made.id}
    assert {span.attributes["gen_ai.provider.name"] for span in attempts} == {"openai"}


async def test_prompts_and_answers_are_exported_only_where_they_are_asked_for(start, collector, upstream):
    upstream.reply_with(Script([role(), text(ANSWER[:4]), text(ANSWER[4:]), finish(), done()]))
    server = await start({"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true"})
    await reply_to(server)
    await server.stop()
    (attempt,) = collector.named("chat vendor/test-1")
    assert json.loads(attempt.attributes["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": PROMPT}]}
    ]
    assert json.loads(attempt.attributes["gen_ai.output.messages"]) == [
        {"role": "assistant", "parts": [{"type": "text", "content": ANSWER}], "finish_reason": "stop"}
    ]


async def test_without_a_collector_replies_go_on_and_spans_are_counted(start, upstream, lines):
    upstream.reply_with(answer(ANSWER))
    port = free_port()
    gone = f"http://127.0.0.1:{port}"
    # Shorter than the exporter's first pause (0.8 s), so that it gives up at once; long enough for a busy collector.
    server = await start({"OTEL_EXPORTER_OTLP_ENDPOINT": gone, "OTEL_EXPORTER_OTLP_TIMEOUT": "0.7"})
    await reply_to(server)
    await until(lambda: counted(server, "failed") == 3)
    await reply_to(server)
    await until(lambda: counted(server, "failed") == 6)
    async with Collector(port=port):
        while not counted(server, "exported"):  # the exporter may need some exports to connect again
            await reply_to(server)
        await server.stop()
    assert len([line for line in lines() if line["event"] == "trace_export_restored"]) == 1
    (line,) = [line for line in lines() if line["event"] == "trace_export_failed"]
    assert "UNAVAILABLE" in line["problem"] or "DEADLINE_EXCEEDED" in line["problem"]
    assert [line["message"] for line in lines() if line["event"] == "log"] == []


async def test_a_collector_that_hangs_neither_delays_the_stop_nor_fills_the_memory(serve, monkeypatch, upstream):
    monkeypatch.setattr("parley_server.app.LAST_SPANS_S", 0.05)
    async with Collector(answers=False) as collector:
        more = {"OTEL_BSP_MAX_QUEUE_SIZE": "4", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2"}
        variables = collector.environment | more
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        server = await serve(environment=variables)
        for _ in range(5):
            await reply_to(server)
        # 15 spans: 2 are being exported, 4 wait.
        assert counted(server, "dropped") >= 7
        telemetry = server.app.telemetry
        await asyncio.wait_for(server.stop(), 5)  # the library would wait for 10 s, the export's own limit
        outcomes = [
            telemetry.registry.get_sample_value("parley_trace_spans_total", {"outcome": outcome}) or 0
            for outcome in ("exported", "failed", "dropped")
        ]
    assert (outcomes[0], sum(outcomes)) == (0, 15)


async def test_a_span_that_cannot_be_written_costs_no_other(start, collector, upstream, lines):
    upstream.reply_with(Script([role(), text("x"), finish(), usage(-1, 1 << 70), done()]))
    server = await start()
    server.app._exporting._export.add(lambda message: setattr(message, "name", "\ud800"))
    await reply_to(server)
    telemetry = server.app.telemetry
    await server.stop()
    assert len(collector.spans) == 3
    assert telemetry.registry.get_sample_value("parley_trace_spans_total", {"outcome": "failed"}) == 1
    assert len([line for line in lines() if line["event"] == "trace_span_failed"]) == 1
    (attempt,) = collector.named("chat vendor/test-1")
    assert "gen_ai.usage.input_tokens" not in attempt.attributes


async def test_latencies_have_exemplars_in_openmetrics_alone(start, collector):
    server = await start()
    reply_id = await reply_to(server, SAMPLED)
    trace_id = id_bytes(reply_id).hex()

    def page(accept):
        url = f"http://127.0.0.1:{server.app.metrics_port}/metrics"
        request = urllib.request.Request(url, headers={"Accept": accept})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answered:
            return answered.read().decode()

    shown = await asyncio.to_thread(page, "application/openmetrics-text; version=1.0.0")
    examples = {line.split("{")[0]: line for line in shown.splitlines() if " # {" in line}
    for name in ("parley_first_token_seconds_bucket", "parley_reply_duration_seconds_bucket"):
        assert f'# {{trace_id="{trace_id}"}}' in examples[name]
    assert f'# {{trace_id="{TRACE}"}}' in examples["parley_call_duration_seconds_bucket"]
    assert "trace_id" not in await asyncio.to_thread(page, "text/plain")


async def test_values_that_the_library_refuses_stop_the_start(start):
    with pytest.raises(NotConfigured, match=r"OTEL_ variables: .*brotli"):
        await start({"OTEL_EXPORTER_OTLP_COMPRESSION": "brotli"})


REPLY_WITHOUT_TRACES = """
import asyncio, sys
import grpc
from parley.v1 import chat_pb2, chat_pb2_grpc
from parley_server.app import App
from parley_server.settings import load_settings

async def main():
    app = App(load_settings({"PARLEY_LISTEN": "127.0.0.1:0", "PARLEY_METRICS_LISTEN": "127.0.0.1:0"}))
    await app.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        reply = await chat_pb2_grpc.ChatStub(channel).CreateReply(chat_pb2.ReplyRequest(text="Hi"))
    await app.stop(grace_s=0)
    return reply.state

print(asyncio.run(main()), [name for name in sys.modules if name.split(".")[0] == "opentelemetry"])
"""


async def test_without_traces_opentelemetry_is_not_loaded(tmp_path):
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", REPLY_WITHOUT_TRACES],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.stdout == f"{resources_pb2.Reply.STATE_COMPLETED} []\n", ran.stderr


async def test_without_the_extra_the_start_is_refused_with_a_hint(start, monkeypatch):
    for name in ("parley_server.telemetry.otel.tracer", "parley_server.telemetry.otel.export"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    missing = "opentelemetry.exporter.otlp.proto.grpc.trace_exporter"
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(NotConfigured) as refusal_:
        await start()
    assert refusal_.value.message == (
        f"OTEL_EXPORTER_OTLP_ENDPOINT asks for traces, but {missing} is not installed: "
        "pip install parley-server[otel], or set OTEL_TRACES_EXPORTER=none"
    )
