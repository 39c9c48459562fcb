"""Access tokens for Google Cloud from a token server on a socket, and where the requests with them go."""

import asyncio
import json
from urllib.parse import parse_qs

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from parley_server.core.provider_keys import KeyCache
from parley_server.core.secret import Secret
from parley_server.core.store_types import StoredKey
from parley_server.errors import InvalidRequest, ProviderError, ProviderUnauthenticated, ProviderUnavailable
from parley_server.providers.gemini import google_auth
from parley_server.providers.gemini.google_auth import SCOPE, GoogleTokens
from parley_server.providers.gemini.provider import GeminiProvider
from parley_server.providers.keys import RequestKeys
from parley_server.settings import ApiKey, GeminiSettings, GoogleCredentials

from tests.clock import ManualClock, until
from tests.dialects.gemini import GeminiSpeaker
from tests.dialects.speakers import Text
from tests.integration.providers.recording import RecordingSink, model, prompt
from tests.upstream import Close, Hang, Script, refusal

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()
LIFETIME_S = 3599
SPEAKER = GeminiSpeaker()


def issued(token, lifetime_s=LIFETIME_S):
    body = {"access_token": token, "expires_in": lifetime_s, "token_type": "Bearer"}
    return Script([json.dumps(body).encode()], headers={"Content-Type": "application/json"})


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def account(tmp_path, upstream):
    """Writes the file of a service account, with these fields changed."""

    def write(**fields):
        account = {
            "client_email": "ada@acme.iam.example",
            "private_key": PEM,
            "private_key_id": "k1",
            "token_uri": f"{upstream.url}/token",
        }
        file = tmp_path / "account.json"
        file.write_text(json.dumps(account | fields))
        return file

    return write


@pytest.fixture
async def tokens(account, clock):
    made = GoogleTokens(GoogleCredentials(account()), provider="acme", clock=clock)
    yield made
    await made.close()


async def test_a_service_account_signs_a_request_for_a_token(upstream, tokens, clock):
    upstream.reply_with(issued("t1"))
    assert await tokens.token() == "t1"
    [request] = upstream.requests
    form = {name: value for name, [value] in parse_qs(request.body.decode()).items()}
    assert (request.method, form["grant_type"]) == ("POST", "urn:ietf:params:oauth:grant-type:jwt-bearer")
    claims = jwt.decode(
        form["assertion"], KEY.public_key(), algorithms=["RS256"], options={"verify_exp": False, "verify_aud": False}
    )
    now_s = clock.now_us() // 1_000_000
    assert claims == {
        "iss": "ada@acme.iam.example",
        "aud": f"{upstream.url}/token",
        "scope": SCOPE,
        "iat": now_s,
        "exp": now_s + 3600,
    }
    assert jwt.get_unverified_header(form["assertion"])["kid"] == "k1"


async def test_the_metadata_server_is_asked_with_its_header_and_without_a_proxy(upstream, clock, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    upstream.reply_with(issued("t1"))
    tokens = GoogleTokens(GoogleCredentials(), provider="acme", clock=clock, metadata_url=f"{upstream.url}/token")
    assert await tokens.token() == "t1"
    await tokens.close()
    [request] = upstream.requests
    assert (request.method, request.path, request.headers["metadata-flavor"]) == ("GET", "/v1/token", "Google")


async def test_a_token_is_kept_until_five_minutes_before_its_end(upstream, tokens, clock):
    upstream.reply_next(issued("t1"), issued("t2"))
    for seconds, expected in ((0, "t1"), (LIFETIME_S - 301, "t1"), (1, "t2"), (1, "t2")):
        await clock.advance(seconds)
        assert await tokens.token() == expected


async def test_a_machine_that_was_suspended_gets_a_new_token(upstream, tokens, clock):
    upstream.reply_next(issued("t1"), issued("t2"))
    await tokens.token()
    clock.suspend(LIFETIME_S)
    assert await tokens.token() == "t2"


async def test_a_valid_token_is_used_while_no_new_one_can_be_fetched(upstream, tokens, clock):
    upstream.reply_next(issued("t1"), refusal(503), refusal(503))
    await tokens.token()
    await clock.advance(LIFETIME_S - 1)
    assert await tokens.token() == "t1"
    await clock.advance(1)
    with pytest.raises(ProviderUnavailable):
        await tokens.token()


@pytest.mark.parametrize("lifetime_s", [0, -1, None, "3599", True])
async def test_a_token_of_unknown_lifetime_is_used_once(upstream, tokens, lifetime_s):
    upstream.reply_next(issued("t1", lifetime_s), issued("t2"))
    assert [await tokens.token(), await tokens.token()] == ["t1", "t2"]


async def test_one_fetch_serves_all_requests_even_if_the_first_is_cancelled(upstream, tokens):
    upstream.reply_next(Script(before_head=[Hang()]))
    asked = [asyncio.ensure_future(tokens.token()) for _ in range(3)]
    await until(lambda: len(upstream.requests) == 1)
    asked[0].cancel()
    await asyncio.wait(asked[:1])
    assert not any(each.done() for each in asked[1:])
    await tokens.close()
    await asyncio.wait(asked)
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusal(400, {"error": "invalid_grant", "error_description": "secret"}), ProviderUnauthenticated),
        (refusal(401), ProviderUnauthenticated),
        (refusal(403), ProviderUnauthenticated),
        (refusal(404), ProviderUnauthenticated),
        (refusal(429), ProviderUnavailable),
        (refusal(500), ProviderUnavailable),
        (Script([Close()]), ProviderUnavailable),
        (Script([b"secret"]), ProviderUnavailable),
        (Script([b"[]"]), ProviderUnavailable),
        (issued("two words"), ProviderUnavailable),
        (issued(7), ProviderUnavailable),
    ],
)
async def test_a_failed_fetch(upstream, tokens, answer, error):
    upstream.reply_next(answer, issued("t1"))
    with pytest.raises(ProviderError) as raised:
        await tokens.token()
    assert type(raised.value) is error
    assert "secret" not in str(raised.value.__dict__)
    assert await tokens.token() == "t1"


@pytest.mark.parametrize(
    "fields",
    [
        {"private_key": "secret"},
        {"private_key": 7},
        {"client_email": None, "token_uri": None},
        {"token_uri": "http://[secret"},
        {"token_uri": "secret://a"},
    ],
)
async def test_an_unusable_service_account(account, clock, fields):
    tokens = GoogleTokens(GoogleCredentials(account(**fields)), provider="acme", clock=clock)
    with pytest.raises(ProviderError) as raised:
        await tokens.token()
    assert isinstance(raised.value, ProviderUnauthenticated | ProviderUnavailable)
    assert "secret" not in str(raised.value.__dict__)
    await tokens.close()


async def test_a_missing_file(account, tmp_path, clock):
    tokens = GoogleTokens(GoogleCredentials(tmp_path / "none.json"), provider="acme", clock=clock)
    with pytest.raises(ProviderUnauthenticated):
        await tokens.token()
    await tokens.close()


# --- requests


@pytest.mark.parametrize(
    ("name", "project", "path"),
    [
        ("gemini-9", "", "/v1/models/gemini-9"),
        ("tunedModels/my-1", "", "/v1/tunedModels/my-1"),
        ("gemini-9", "p", "/v1/projects/p/locations/global/publishers/google/models/gemini-9"),
        (
            "publishers/google/models/gemini-9@001",
            "p",
            "/v1/projects/p/locations/global/publishers/google/models/gemini-9@001",
        ),
        ("endpoints/7", "p", "/v1/projects/p/locations/global/endpoints/7"),
        ("odd?#", "", "/v1/models/odd%3F%23"),
    ],
)
async def test_the_path_names_project_and_model(upstream, name, project, path):
    upstream.reply_with(SPEAKER.script(Text("ok")))
    settings = GeminiSettings(
        base_url=upstream.url, api_key=ApiKey("sk"), project=project, location="global" if project else ""
    )
    provider = GeminiProvider("acme", settings)
    await provider.generate(prompt(model=model(name=name)), RecordingSink())
    await provider.close()
    [request] = upstream.requests
    assert request.path == f"{path}:streamGenerateContent?alt=sse"
    sent = (request.headers.get("x-goog-api-key"), request.headers.get("authorization"))
    assert sent == ((None, "Bearer sk") if project else ("sk", None))


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, "https://generativelanguage.googleapis.com/v1"),
        ({"project": "p", "location": "global"}, "https://aiplatform.googleapis.com/v1beta1"),
        ({"project": "p", "location": "eu-west9"}, "https://eu-west9-aiplatform.googleapis.com/v1beta1"),
    ],
)
async def test_google_is_not_asked_without_a_key(settings, url):
    provider = GeminiProvider("acme", GeminiSettings(**settings))
    assert provider.endpoint.base_url == url
    with pytest.raises(ProviderUnauthenticated):
        await provider.generate(SPEAKER.prompt(), RecordingSink())
    await provider.close()


async def test_another_server_is_asked_without_a_key(upstream):
    upstream.reply_with(SPEAKER.script(Text("ok")))
    provider = GeminiProvider("acme", GeminiSettings(base_url=upstream.url))
    await provider.generate(SPEAKER.prompt(), RecordingSink())
    await provider.close()
    assert not {"x-goog-api-key", "authorization"} & upstream.requests[0].headers.keys()


async def test_a_token_that_the_api_refuses_is_replaced(upstream, account):
    upstream.reply_next(issued("t1"), refusal(401), issued("t2"), SPEAKER.script(Text("ok")))
    credentials = GoogleCredentials(account())
    settings = GeminiSettings(base_url=upstream.url, credentials=credentials, project="p", location="global")
    provider = GeminiProvider("acme", settings)
    with pytest.raises(ProviderUnauthenticated):
        await provider.generate(SPEAKER.prompt(), RecordingSink())
    await provider.generate(SPEAKER.prompt(), RecordingSink())
    await provider.close()
    sent = [request.headers.get("authorization") for request in upstream.requests]
    assert sent == [None, "Bearer t1", None, "Bearer t2"]


async def test_tenants_with_stored_service_accounts_have_tokens_of_their_own(upstream, account, monkeypatch):
    monkeypatch.setattr(google_auth, "MAX_ACCOUNTS", 2)
    answers = SPEAKER.script(Text("ok"))
    upstream.reply_with(lambda request: issued(f"t{fetched(upstream)}") if request.path == "/v1/token" else answers)
    settings = GeminiSettings(
        base_url=upstream.url, credentials=GoogleCredentials(account()), project="p", location="global"
    )
    cache = KeyCache()
    for tenant in ("shop", "bank", "mill"):
        document = account(client_email=f"{tenant}@acme.iam.example").read_text()
        row = StoredKey(provider="acme", tenant=tenant, token="", hint="", update_time_us=1)
        cache.put(row, Secret(document))
    provider = GeminiProvider("acme", settings, keys=RequestKeys("acme", settings, cache))
    sent = []
    for tenant in ("shop", "bank", "shop", "other", "mill", "shop", "bank"):
        await provider.generate(prompt(tenant=tenant), RecordingSink())
        sent.append(upstream.requests[-1].headers["authorization"])
    await provider.close()
    # the third service account takes the place of the bank's, which was not used for the longest time
    assert sent == [f"Bearer t{number}" for number in (1, 2, 1, 3, 4, 1, 5)]


def fetched(upstream):
    """The number of tokens that were asked for."""
    return sum(request.path == "/v1/token" for request in upstream.requests)


async def test_a_service_account_is_verified_by_fetching_a_token(upstream, account):
    provider = GeminiProvider("acme", GeminiSettings(base_url=upstream.url, project="p", location="global"))
    key = Secret(account().read_text())
    provider.check_key(key)
    upstream.reply_next(refusal(401), refusal(503), issued("t1"))
    for error in (InvalidRequest, ProviderUnavailable):
        with pytest.raises(error):
            await provider.verify_key(key)
    await provider.verify_key(key)
    await provider.close()
    assert [request.method for request in upstream.requests] == ["POST"] * 3
