"""Random calls get a documented status with its reason in time, and the memory of the server does not grow.

PARLEY_FUZZ_CALLS sets the number of calls to both databases together (`make fuzz`). The calls are the same in each run.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections import Counter
from dataclasses import dataclass, field

import grpc
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from parley.v1 import chat_pb2, chat_pb2_grpc, conversations_pb2, conversations_pb2_grpc, resources_pb2
from parley_server.core.page_tokens import page_token_of
from parley_server.core.store_types import ConversationFilter, MessageFilter
from parley_server.core.usage_values import UsageGroup, UsageQuery
from parley_server.errors import Reason
from parley_server.rpc.status import code_of
from parley_server.secrets.fernet import new_encryption_key

from tests.endurance import rounds
from tests.fuzzing import PNG, FuzzCall, Known, calls, mostly
from tests.integration.served import Refusal, tenant
from tests.issuer import ISSUER, Issuer
from tests.processes import CHANNEL_OPTIONS, MIB, ServerProcess
from tests.services import require_postgres

CALLS = int(os.environ.get("PARLEY_FUZZ_CALLS", rounds(2000, short=800))) // 2
DEADLINE_S = 20.0
GROWTH_BYTES = 24 * MIB
JUNK_CONNECTIONS = 30
OF_PROVIDERS = ("provider_attempt", "reply")
"""Events of level ERROR that report a key that a provider refuses: the generated keys are invalid."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CLIENT, ADMIN, LIMITED, SPENT = "key-of-shop", "key-of-ops", "key-of-limited", "key-of-spent"
REACHED = {"OK", "INVALID_REQUEST", "UNAUTHENTICATED", "FORBIDDEN", "RATE_LIMITED", "QUOTA_EXCEEDED"}
DOCUMENTED = {code_of(reason) for reason in Reason} - {grpc.StatusCode.INTERNAL}
CODES_OF_REASONS = {reason.value: code_of(reason) for reason in Reason}
THE_ISSUER = Issuer("one")
CONFIG = f"""
[providers.typewriter]
kind = "scripted"
script = {{ text = "one two three", delay_s = 0 }}
[providers.away]
kind = "openai"
base_url = "http://127.0.0.1:9"
api_key = "stored"
retries = 0
[models.scripted]
provider = "typewriter"
name = "scripted"
images = true
tools = true
[models.away]
provider = "away"
name = "away"
[server]
default_model = "scripted"
ended_logs_ttl_s = 1
[identity.corp]
issuer = "{ISSUER}"
audience = ["parley"]
jwks = "file:{{jwks}}"
algorithms = ["ES256"]
tenant = "shop"
"""
TENANTS = (
    tenant("shop", CLIENT)
    + tenant("ops", ADMIN, roles=["client", "admin"])
    + tenant("limited", LIMITED)
    + "limits = { messages_per_minute = 1, concurrent_replies = 1 }\n"
    + tenant("spent", SPENT)
    + "quotas = { tokens_per_day = 100 }\ntotals = { cost_per_month = 1.0 }\n"
)


def bearer(key: str, *more: tuple[str, str | bytes]) -> list[tuple[str, str | bytes]]:
    return [("authorization", f"Bearer {key}"), *more]


def metadata() -> st.SearchStrategy[list[tuple[str, str | bytes]]]:
    """Mostly valid credentials, since a call without one is refused before its request is read."""
    printable = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=140)
    ada = bearer(CLIENT, ("x-end-user", "ada"))
    valid = [
        ada,
        ada,
        ada,
        ada,
        ada,
        ada,
        bearer(CLIENT),
        bearer(ADMIN),
        bearer(ADMIN),
        bearer(THE_ISSUER.token()),
    ]
    wrong = [[], bearer("wrong"), [*bearer(CLIENT), *bearer(CLIENT)], bearer(THE_ISSUER.token(aud="other"))]
    odd = st.one_of(
        st.sampled_from(wrong),
        printable.map(lambda text: bearer(CLIENT, ("x-end-user", text.strip()))),
        printable.map(lambda text: [("authorization", text.strip())]),
        st.binary(max_size=40).map(lambda data: bearer(CLIENT, ("any-bin", data), ("traceparent", "x" * 300))),
    )
    return mostly(st.sampled_from(valid), odd)


def forged_tokens() -> list[str]:
    """Page tokens that this server did not make: of the right form, with cursors that no page has."""
    everything = ConversationFilter(words=(), labels={})
    by_day = UsageQuery(start_us=0, end_us=None, groups=(UsageGroup.DAY,))
    cursors = [(everything, (2**70, "x")), (everything, (-1, "\x00")), (everything, ("x",)), (by_day, ("\x00",))]
    branch = MessageFilter(conversation_id="known", leaf="", all_branches=False)
    return [page_token_of(cursor, query) for query, cursor in [*cursors, (branch, "\x00"), (branch, "none")]]


def existing(address: str) -> Known:
    """The ids of a conversation and other data of ada, for use in calls."""
    with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
        conversations, chat = conversations_pb2_grpc.ConversationsStub(channel), chat_pb2_grpc.ChatStub(channel)
        ada = bearer(CLIENT, ("x-end-user", "ada"))
        conversations.CreateConversation(
            conversations_pb2.CreateConversationRequest(conversation=resources_pb2.Conversation(id="known")),
            metadata=ada,
            timeout=DEADLINE_S,
        )
        image = resources_pb2.Part(image=resources_pb2.Image(data=PNG))
        message = resources_pb2.Message(role=resources_pb2.ROLE_USER, parts=[resources_pb2.Part(text="Hi"), image])
        request = chat_pb2.ReplyRequest(request_id="r", conversation_id="known", input=[message])
        reply = chat.CreateReply(request, metadata=ada, timeout=DEADLINE_S)
        listing = conversations_pb2.ListMessagesRequest(conversation_id="known")
        listed = conversations.ListMessages(listing, metadata=ada, timeout=DEADLINE_S).messages
    message_ids = [each.id for each in listed]
    image_ids = [part.image.image_id for each in listed for part in each.parts if part.image.image_id]
    names = ("after_message_id", "replace_message_id", "leaf_message_id", "head_message_id")
    return dict.fromkeys(names, message_ids) | {
        "conversation_id": ["known", "known", "other", ""],
        "id": ["known", "fresh"],
        "reply_id": [reply.id],
        "request_id": ["r", "s"],
        "image_id": image_ids,
        "model": ["scripted", "away"],
        "fallback_models": ["scripted", "away"],
        "text": ["Hi"],
        "provider": ["away", "typewriter"],
        "api_key": ["sk-12345678"],
        "tenant": ["shop", "ops"],
        "end_user": ["ada", "ben"],
        "paths": ["title", "context.reminder", "labels", "head_message_id"],
        "name": ["f"],
        "parameters": ["{}"],
        "json_schema": ["{}"],
        "tool_choice": ["auto", "f"],
        "url": ["https://example.com/a.png"],
        "arguments": ["{}"],
        "page_token": forged_tokens(),
    }


@dataclass
class Fuzzing:
    """The calls made so far. `settled_bytes`: the memory of the server after half of them."""

    server: ServerProcess
    outcomes: Counter[str] = field(default_factory=Counter)
    settled_bytes: int = 0

    def run(self) -> None:
        """Make all calls, one after the other."""
        known = existing(self.server.address)
        channel = grpc.insecure_channel(self.server.address, options=CHANNEL_OPTIONS)

        @settings(
            max_examples=CALLS,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(calls(known, metadata(), st.sampled_from([bearer(LIMITED), bearer(SPENT)])))
        def make_call(call: FuzzCall) -> None:
            self.outcomes[outcome(channel, call)] += 1
            if self.outcomes.total() == CALLS // 2:
                self.settled_bytes = self.server.rss_bytes()

        with channel:
            make_call()


def outcome(channel: grpc.Channel, call: FuzzCall) -> str:
    """The reason of the refusal, or OK. Raises AssertionError for an undocumented status, or one without a reason."""
    method = channel.stream_stream(call.method)
    refused = None
    try:
        for _ in method(iter(call.messages), metadata=call.metadata, timeout=DEADLINE_S):
            pass
    except grpc.RpcError as error:
        refused = error
    if refused is None:
        return "OK"
    assert refused.code() in DOCUMENTED, (call, refused)
    reason = Refusal(refused).reason
    assert CODES_OF_REASONS[reason] is refused.code(), (call, refused)
    return reason


def send_junk(address: str) -> None:
    """Open connections that send random bytes, some of them after the preface of HTTP/2."""
    chance = random.Random(1)
    host, _, port = address.rpartition(":")
    for number in range(JUNK_CONNECTIONS):
        with socket.create_connection((host, int(port)), timeout=DEADLINE_S) as connection:
            connection.sendall(PREFACE * (number % 2) + chance.randbytes(chance.randrange(1, 4096)))


@pytest.fixture(params=["sqlite", "postgres"])
def database(request):
    """The variables that choose a database."""
    if request.param == "sqlite":
        return {}
    require_postgres()
    return {"PARLEY_DATABASE_URL": request.getfixturevalue("postgres_url")}


@pytest.mark.timeout(max(180, CALLS // 4))
async def test_random_calls_get_documented_statuses_and_memory_does_not_grow(tmp_path, database):
    jwks = tmp_path / "jwks.json"
    jwks.write_bytes(THE_ISSUER.jwks())
    toml = CONFIG.replace("{jwks}", str(jwks)) + TENANTS
    environment = database | {"PARLEY_ENCRYPTION_KEYS": new_encryption_key(), "PARLEY_LOG_FORMAT": "json"}
    async with ServerProcess(tmp_path / "server", toml=toml, forked=True, **environment) as server:
        fuzzing = Fuzzing(server)
        await asyncio.to_thread(fuzzing.run)
        await asyncio.to_thread(send_junk, server.address)
        assert await server.health() == "SERVING"
        await server.idle()
        print(dict(fuzzing.outcomes.most_common()), f"{server.rss_bytes() - fuzzing.settled_bytes} bytes more")
        errors = [each for each in server.events() if each["level"] == "error"]
        assert [each for each in errors if each["event"] not in OF_PROVIDERS] == []
        assert server.rss_bytes() - fuzzing.settled_bytes < GROWTH_BYTES
        # Calls that nearly all fail for one reason would not reach most of the code.
        assert fuzzing.outcomes["OK"] > CALLS / 10
        assert fuzzing.outcomes.keys() >= REACHED
