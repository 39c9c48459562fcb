"""Services other than Chat: catalog, health, reflection, metrics, and the RPCs that this release does not serve."""

import asyncio
import urllib.request

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2
from parley.v1 import catalog_pb2, resources_pb2

from tests.integration.served import ask, refused
from tests.upstream import Hang, Script, refusal, role, text

HANGING = Script([role(), text("on and"), Hang()])
SERVICES = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "parley.v1.Admin",
    "parley.v1.Catalog",
    "parley.v1.Chat",
    "parley.v1.Conversations",
]


async def test_the_catalog_lists_the_models_in_configuration_order(server):
    answer = await server.catalog.ListModels(catalog_pb2.ListModelsRequest())
    assert list(answer.models) == [
        resources_pb2.Model(
            alias="test",
            provider="up",
            provider_model="vendor/test-1",
            max_output_tokens=1000,
            images=True,
            tools=True,
            prompt_nano_usd_per_million=2_000_000_000,
            cached_prompt_nano_usd_per_million=500_000_000,
            completion_nano_usd_per_million=8_000_000_000,
            is_default=True,
            reasoning=True,
            json_schema=True,
            sampling=True,
        ),
        resources_pb2.Model(
            alias="plain",
            provider="up",
            provider_model="vendor/plain-1",
            context_tokens=100,
            reasoning=True,
            json_schema=True,
            sampling=True,
        ),
        resources_pb2.Model(
            alias="scripted",
            provider="typewriter",
            provider_model="scripted",
            tools=True,
            json_schema=True,
            sampling=True,
        ),
    ]


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_all_services(server, version):
    reflect = server.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="parley.v1.Chat"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="parley.v1.Chat.StreamReply"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="parley.v1.Chat.Nothing"),
    ]
    answers = [answer async for answer in reflect(iter(requests))]
    assert sorted(each.name for each in answers[0].list_services_response.service) == SERVICES
    for answer in answers[1:3]:
        assert any(b"parley/v1/chat.proto" in file for file in answer.file_descriptor_response.file_descriptor_proto)
    assert answers[3].error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


async def scraped(server):
    """The values of /metrics by name and labels."""
    url = f"http://127.0.0.1:{server.app.metrics_port}/metrics"
    body = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=5).read().decode())
    lines = [line for line in body.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def test_metrics_count_replies_calls_and_tokens(server, upstream):
    before = await scraped(server)
    assert before["parley_replies_active"] == before["parley_readers_active"] == 0
    upstream.reply_next(HANGING)
    watch = await server.stream().until_text("on and")
    during = await scraped(server)
    assert (during["parley_replies_active"], during["parley_readers_active"]) == (1, 1)
    await server.resume(watch.reply_id).until_text("on and")
    await server.cancel(watch.reply_id)
    await server.stream().end()
    upstream.reply_next(refusal(500))
    await server.stream().end()
    await refused(server.chat.StreamReply(ask("")))
    after = await scraped(server)
    moved = {name: after[name] - before.get(name, 0.0) for name in after}
    expected = {
        'parley_replies_total{model="test",reason="CANCELLED",state="CANCELLED"}': 1,
        'parley_replies_total{model="test",reason="STOP",state="COMPLETED"}': 1,
        'parley_replies_total{model="test",reason="PROVIDER_UNAVAILABLE",state="FAILED"}': 1,
        "parley_replies_active": 0,
        'parley_first_token_seconds_count{model="test"}': 2,
        'parley_reply_duration_seconds_count{state="COMPLETED"}': 1,
        'parley_reply_text_characters_sum{state="COMPLETED"}': len("Hello, world"),
        "parley_reply_overhead_seconds_count": 3,
        'parley_tokens_total{kind="completion",model="test"}': 2 + 7,
        'parley_refusals_total{reason="INVALID_REQUEST"}': 1,
        'parley_calls_total{code="ABORTED",method="/parley.v1.Chat/StreamReply"}': 1,
        'parley_calls_total{code="INVALID_ARGUMENT",method="/parley.v1.Chat/StreamReply"}': 1,
        "parley_resumes_total": 1,
        'parley_provider_attempts_total{outcome="PROVIDER_UNAVAILABLE",provider="up"}': 1,
        'parley_provider_attempts_total{outcome="OK",provider="up"}': 1,
    }
    assert {name: moved.get(name) for name in expected} == expected
    assert moved['parley_cost_usd_total{model="test"}'] == pytest.approx((13 + 5) * 2e-6 + (2 + 7) * 8e-6)
    assert {"parley_loop_lag_seconds_count", "parley_loop_utilisation", "process_resident_memory_bytes"} <= set(after)
