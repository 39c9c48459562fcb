"""Identity over real calls: every RPC with every wrong credential, roles, models of tenants, log lines, metrics."""

import hashlib
import io
import json
import logging
import time

import grpc
import pytest
from parley.v1 import admin_pb2, catalog_pb2, chat_pb2, conversations_pb2, resources_pb2
from parley_server.core.access import AccessRole
from parley_server.rpc.call import ROLES
from parley_server.telemetry.logs import configure_logging

from tests.clock import until
from tests.integration.served import Refusal, ask, refused, tenant
from tests.integration.test_ownership import counted
from tests.integration.test_storage import Outage
from tests.issuer import ISSUER, Issuer, rsa_key, served, unsigned, with_pem_as_secret
from tests.upstream import Hang, Script, Upstream, role, text

SERVICES = [
    file.DESCRIPTOR.services_by_name[name]
    for file, name in (
        (chat_pb2, "Chat"),
        (conversations_pb2, "Conversations"),
        (catalog_pb2, "Catalog"),
        (admin_pb2, "Admin"),
    )
]
METHODS = {f"/{service.full_name}/{method.name}": method for service in SERVICES for method in service.methods}
KEY_OF_SHOP, KEY_OF_OPS = "key-of-shop", "key-of-ops"
OLD = int(time.time()) - 3600

THE_ISSUER = Issuer("one", "two")
THE_ISSUER.keys["rsa"] = rsa_key()


def bearer(token):
    return [("authorization", f"Bearer {token}")]


WRONG = {
    "none": ([], "missing"),
    "wrong": (bearer("wrong"), "unknown"),
    "scheme": ([("authorization", KEY_OF_SHOP)], "scheme"),
    "expired": (bearer(THE_ISSUER.token(exp=OLD)), "expired"),
    "not yet valid": (bearer(THE_ISSUER.token(nbf=OLD + 7200)), "not_yet_valid"),
    "alg none": (bearer(unsigned(THE_ISSUER.token())), "algorithm"),
    "public key as secret": (bearer(with_pem_as_secret(THE_ISSUER.token(kid="rsa"), rsa_key())), "algorithm"),
    "audience": (bearer(THE_ISSUER.token(aud="shop")), "audience"),
    "issuer": (bearer(THE_ISSUER.token(iss="https://id.example.org")), "issuer"),
    "kid": (bearer(THE_ISSUER.token(kid="three")), "kid"),
    "signature": (bearer(Issuer("one").token()), "signature"),
    "two": ([*bearer(KEY_OF_SHOP), *bearer(KEY_OF_SHOP)], "repeated"),
}
DENIED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
HANGING = Script([role(), text("on and"), Hang()])
USER = resources_pb2.ROLE_USER
ONE_TEXT = "the credential is missing or not valid"


@pytest.fixture
async def identity_provider():
    async with Upstream() as server:
        server.reply_with(lambda _: served(THE_ISSUER.jwks()))
        yield server


def issuer(url):
    return f"""
[identity.corp]
issuer = "{ISSUER}"
audience = ["parley"]
jwks = "{url}"
algorithms = ["RS256", "ES256"]
tenant = "shop"
"""


@pytest.fixture
async def shop(serve, identity_provider):
    """A server with the tenants shop, bank and ops (admin), and an issuer of tokens for shop."""
    tenants = tenant("shop", KEY_OF_SHOP) + tenant("bank", "key-of-bank") + tenant("ops", KEY_OF_OPS, roles=["admin"])
    return await serve(access=tenants + issuer(identity_provider.url))


async def called(server, method, metadata, request=b""):
    """The refusal of a method that is called with raw bytes; None if the call succeeds."""
    kind = server.channel.unary_stream if METHODS[method].server_streaming else server.channel.unary_unary
    call = kind(method)(request, metadata=metadata, timeout=20)
    try:
        if METHODS[method].server_streaming:
            _ = [chunk async for chunk in call]
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return Refusal(error)
    return None


def test_every_method_of_the_contract_names_its_role():
    expected = {name: AccessRole.ADMIN if "/parley.v1.Admin/" in name else AccessRole.CLIENT for name in METHODS}
    assert expected | {"/parley.v1.Admin/ListUsage": None} == ROLES


@pytest.mark.parametrize("wrong", WRONG)
async def test_every_method_refuses_a_wrong_credential(shop, wrong):
    metadata, cause = WRONG[wrong]
    for task in shop.app._background:
        task.cancel()  # so that only the queries of calls are counted
    statements = counted(shop)
    refusals = [
        await called(shop, method, metadata, request)
        for method in METHODS
        for request in (b"", b"\xff\xff\xff")  # the second is no message: it is not parsed
    ]
    for refusal in refusals:
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
        assert (refusal.message, refusal.retry_after_s, refusal.initial_metadata) == (ONE_TEXT, None, ())
    assert statements == []
    counts = shop.app.telemetry.registry  # counted before the status is sent
    assert counts.get_sample_value("parley_auth_failures_total", {"cause": cause}) == len(refusals)


async def test_every_method_refuses_a_second_end_user(shop):
    twice = [("x-end-user", "ada"), ("x-end-user", "ben")]
    for method in METHODS:
        for key in (KEY_OF_SHOP, THE_ISSUER.token()):
            refusal = await called(shop, method, [*bearer(key), *twice])
            assert (refusal.reason, refusal.fields) == ("INVALID_REQUEST", ["x-end-user"]), method


@pytest.mark.parametrize(
    ("key", "held"), [(KEY_OF_SHOP, AccessRole.CLIENT), (KEY_OF_OPS, AccessRole.ADMIN), ("token", AccessRole.CLIENT)]
)
async def test_a_method_needs_its_role(shop, key, held):
    key = THE_ISSUER.token() if key == "token" else key
    for method, needed in ROLES.items():
        refusal = await called(shop, method, bearer(key))
        allowed = needed in (None, held)
        assert allowed == (refusal is None or refusal.code not in DENIED), method
        if not allowed:
            assert (refusal.code.name, refusal.reason) == ("PERMISSION_DENIED", "FORBIDDEN")


async def test_a_request_of_a_known_caller_that_is_no_message_is_invalid(shop):
    for method in METHODS:
        key = KEY_OF_OPS if ROLES[method] is AccessRole.ADMIN else KEY_OF_SHOP
        refusal = await called(shop, method, bearer(key), b"\xff\xff\xff")
        assert (refusal.code.name, refusal.reason) == ("INVALID_ARGUMENT", "INVALID_REQUEST"), method


async def test_an_open_server_on_loopback_serves_admins(server):
    for method in METHODS:
        refusal = await called(server, method, bearer("any"))
        assert refusal is None or refusal.code not in DENIED, method


async def test_health_and_reflection_need_no_credential(shop):
    assert await shop.ready()
    reflect = shop.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    assert [answer async for answer in reflect(iter([b""]), timeout=20)]


async def test_reflection_can_be_turned_off(serve):
    server = await serve(reflection=False)
    reflect = server.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        _ = [answer async for answer in reflect(iter([b""]), timeout=20)]
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_callers_with_tokens_wait_while_the_key_set_cannot_be_read(serve, clock):
    async with Upstream() as provider:
        provider.reply_with(served(b"", 503))
        server = await serve(clock=clock, access=tenant("shop", KEY_OF_SHOP) + issuer(provider.url))
        ada = server.caller(bearer=THE_ISSUER.token())
        refusal = await refused(ada.catalog.ListModels(catalog_pb2.ListModelsRequest()))
        assert (refusal.code.name, refusal.reason) == ("UNAVAILABLE", "IDENTITY_UNAVAILABLE")
        assert (refusal.retry_after_s, refusal.plain.retryable) == (1.0, True)
        with_key = server.caller(bearer=KEY_OF_SHOP)
        assert (await with_key.catalog.ListModels(catalog_pb2.ListModelsRequest())).models
        provider.reply_with(served(THE_ISSUER.jwks()))
        await clock.advance(1.0)
        assert (await ada.catalog.ListModels(catalog_pb2.ListModelsRequest())).models


async def test_a_stream_outlives_its_token(serve, upstream, identity_provider, clock):
    """A credential counts when the call begins."""
    access = tenant("shop", KEY_OF_SHOP) + issuer(identity_provider.url)
    server = await serve(clock=clock, access=access, provider="timeouts = { idle = 3600 }")
    upstream.reply_next(HANGING)
    ada = server.caller(bearer=THE_ISSUER.token())
    watch = await ada.stream(model="test").until_text("on and")
    await clock.advance(301.0)
    await server.caller("ada", bearer=KEY_OF_SHOP).cancel(watch.reply_id)
    assert await watch.code() is grpc.StatusCode.OK


async def test_a_tenant_names_and_sees_only_its_models(serve):
    server = await serve(access=tenant("shop", KEY_OF_SHOP, models=["scripted", "plain"]) + tenant("bank", "b"))
    shop, bank = server.caller(bearer=KEY_OF_SHOP), server.caller(bearer="b")
    listed = (await shop.catalog.ListModels(catalog_pb2.ListModelsRequest())).models
    assert [(each.alias, each.is_default) for each in listed] == [("scripted", True), ("plain", False)]
    assert len((await bank.catalog.ListModels(catalog_pb2.ListModelsRequest())).models) == 3
    assert (await shop.create("Hi")).model == "scripted"  # the tenant's default
    for call in (
        shop.chat.CreateReply(ask(model="test")),
        shop.chat.CreateReply(ask(model="scripted", fallback_models=["test"])),
        shop.chat.CreateReply(ask(model="never")),
        shop.conversations.CreateConversation(
            conversations_pb2.CreateConversationRequest(conversation=resources_pb2.Conversation(model="test"))
        ),
    ):
        refusal = await refused(call)
        assert (refusal.reason, refusal.message) == ("MODEL_NOT_FOUND", "there is no model of this name")
    assert (await bank.create("Hi", model="test")).model == "test"


async def test_log_lines_name_the_credential_and_the_cause(shop):
    lines = io.StringIO()
    root = logging.getLogger()
    former, level = root.handlers[:], root.level
    configure_logging("info", "json", lines)
    try:
        await shop.caller("ada", bearer=KEY_OF_SHOP).catalog.ListModels(catalog_pb2.ListModelsRequest())
        await shop.caller(bearer=THE_ISSUER.token()).catalog.ListModels(catalog_pb2.ListModelsRequest())
        await refused(shop.caller("ada", bearer="wrong").catalog.ListModels(catalog_pb2.ListModelsRequest()))
        await until(lambda: lines.getvalue().count("ListModels") == 3)  # a line is written after the status
    finally:
        root.handlers[:] = former
        root.setLevel(level)
    calls = [line for line in map(json.loads, lines.getvalue().splitlines()) if line["event"] == "call"]
    label = f"key:{hashlib.sha256(KEY_OF_SHOP.encode()).hexdigest()[:8]}"
    shown = [[line.get(key) for key in ("tenant", "end_user", "credential", "cause")] for line in calls]
    assert shown == [
        ["shop", "ada", label, None],
        ["shop", "ada", "jwt:corp:ada", None],
        [None, None, None, "unknown"],
    ]
    assert KEY_OF_SHOP not in lines.getvalue()
    assert "wrong" not in lines.getvalue()


async def test_s0_6_only_the_owner_of_a_conversation_may_send_or_read(shop, upstream):
    """With tokens: ada owns the conversation. Nobody without a valid token, and no other user, reaches it."""
    ada, ben = (shop.caller(bearer=THE_ISSUER.token(sub=name)) for name in ("ada", "ben"))
    watch = await ada.stream("My secret").end()
    again = await ada.stream("More", conversation_id=watch.conversation_id).end()
    assert again.conversation_id == watch.conversation_id
    impostor = shop.caller("ada", bearer=THE_ISSUER.token(sub="ben"))  # x-end-user does not count beside a token
    bank = shop.caller("ada", bearer="key-of-bank")
    for stranger in (ben, impostor, bank):
        for call in (
            stranger.chat.StreamReply(ask("Hi", conversation_id=watch.conversation_id)),
            stranger.messages(watch.conversation_id),
            stranger.get(watch.reply_id),
            stranger.chat.ResumeReply(chat_pb2.ResumeReplyRequest(reply_id=watch.reply_id)),
        ):
            assert (await refused(call)).code is grpc.StatusCode.NOT_FOUND
    forged = shop.caller(bearer=Issuer("one").token(sub="ada"))
    assert (await refused(forged.messages(watch.conversation_id))).reason == "UNAUTHENTICATED"
    ids = [(await ada.new_conversation()).id for _ in range(2)]
    assert len({each[10:] for each in ids}) == 2  # after the time, 80 random bits
    page = await ada.messages(watch.conversation_id)
    assert [message.parts[0].text for message in page.messages if message.role == USER] == ["More", "My secret"]


async def test_s0_10_without_the_database_a_refusal_is_503_and_a_wrong_id_is_404(shop):
    """UNAVAILABLE and NOT_FOUND are what gateways map to 503 and 404."""
    ada = shop.caller("ada", bearer=KEY_OF_SHOP)
    unknown = await refused(ada.poll("0" * 26))
    assert (unknown.code.name, unknown.reason) == ("NOT_FOUND", "REPLY_NOT_FOUND")
    outage = Outage(shop)
    for call in (ada.chat.StreamReply(ask()), ada.chat.CreateReply(ask()), ada.poll("0" * 26)):
        refusal = await refused(call)
        assert (refusal.code.name, refusal.reason) == ("UNAVAILABLE", "STORAGE_UNAVAILABLE")
        assert (refusal.retry_after_s, refusal.initial_metadata) == (1.0, ())
    assert (await ada.catalog.ListModels(catalog_pb2.ListModelsRequest())).models  # needs no database
    assert (await refused(shop.messages("x"))).reason == "UNAUTHENTICATED"  # nor does a refusal
    outage.on = False
    assert (await ada.stream().end()).text == "Hello, world"
