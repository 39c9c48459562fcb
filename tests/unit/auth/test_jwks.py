"""The public keys of an issuer, from a real HTTP server and from a file."""

from __future__ import annotations

import asyncio
import json
import os

import pytest
from parley_server.auth import jwks
from parley_server.auth.jwks import FileKeys, UrlKeys
from parley_server.auth.key_set import MAX_BYTES, parse_key_set

from tests.clock import ManualClock, settle, until
from tests.issuer import Issuer, public, rsa_key, served
from tests.upstream import Hang, Script, Upstream, Wait


class Outcomes(list):
    """Implements `KeySetObserver`."""

    jwks_refreshed = list.append


@pytest.fixture
async def upstream():
    async with Upstream() as server:
        yield server


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def issuer(upstream):
    made = Issuer("one")
    upstream.reply_with(lambda _: served(made.jwks()))
    return made


@pytest.fixture
def outcomes():
    return Outcomes()


@pytest.fixture
async def keys(upstream, clock, outcomes):
    made = UrlKeys("corp", upstream.url, clock=clock, observer=outcomes)
    yield made
    await made.close()


async def found(keys: UrlKeys, kid: str) -> bool:
    held = await keys.renewed()
    return held is not None and held.find(kid, "ES256") is not None


async def test_a_rotated_key_is_found_after_the_least_interval(keys, clock, issuer, upstream):
    assert await found(keys, "one")
    issuer.rotate("two")
    await clock.advance(29.9)
    assert not await found(keys, "two")
    await clock.advance(0.1)
    assert await found(keys, "two")
    assert not await found(keys, "one")
    assert len(upstream.requests) == 2


async def test_a_flood_of_unknown_key_ids_causes_one_fetch_in_30_s(keys, clock, issuer, upstream):
    assert not any(await asyncio.gather(*[found(keys, f"unknown-{n}") for n in range(200)]))
    assert len(upstream.requests) == 1
    for _ in range(3):
        await clock.advance(30.0)
        await asyncio.gather(*[found(keys, f"unknown-{n}") for n in range(50)])
    assert len(upstream.requests) == 4


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (served(b"", 302, Location="/elsewhere"), "HTTP 302"),
        (served(Issuer().jwks(), 404), "HTTP 404"),
        (Script([b" " * 1024 * 1024, Hang()], headers={}), "more than"),
        (served(Issuer().jwks(), **{"Content-Encoding": "gzip"}), "compressed"),
        (served(b"[" * 100_000), "not JSON"),
        (served(b'{"keys": 5}'), "no array"),
        (served(b'{"keys": []}'), "no key"),
        (Script([Hang()]), "TimeoutError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
async def test_a_bad_answer_is_refused_and_changes_nothing(
    keys, clock, issuer, upstream, outcomes, caplog, monkeypatch, answer, problem
):
    monkeypatch.setattr(jwks, "FETCH_S", 0.5)
    upstream.reply_next(answer, answer)
    assert await keys.renewed() is None
    await clock.advance(1.0)
    assert await keys.renewed() is None
    await clock.advance(1.0)
    assert await found(keys, "one")
    upstream.reply_next(answer)
    await clock.advance(30.0)
    assert await found(keys, "one")
    assert outcomes == ["failed", "failed", "ok", "failed"]
    logged = [record.fields["problem"] for record in caplog.records if record.message == "jwks_refresh_failed"]
    assert len(logged) == 2  # once for each time without a good answer in between
    assert all(problem in each for each in logged), logged
    assert {request.path for request in upstream.requests} == {"/v1"}  # no redirect was followed


async def test_keys_are_kept_while_the_url_is_away(clock, outcomes):
    async with Upstream() as upstream:
        upstream.reply_with(served(Issuer("one").jwks()))
        keys = UrlKeys("corp", upstream.url, clock=clock, observer=outcomes)
        never = UrlKeys("never", upstream.url, clock=clock, observer=outcomes)
        assert await found(keys, "one")
    await clock.advance(3600.0)
    assert await found(keys, "one")
    assert await never.renewed() is None
    await keys.close()
    await never.close()


async def test_keys_are_fetched_in_the_background(keys, clock, issuer, upstream):
    upstream.reply_next(served(b"", 500))
    keeping = asyncio.create_task(keys.keep())
    await until(lambda: clock.waiting == 1)
    assert keys.current() is None
    await clock.advance(1.0)  # without any keys, it tries again soon
    await until(lambda: keys.current() is not None and clock.waiting == 1)
    await clock.advance(599.0)
    assert len(upstream.requests) == 2
    await clock.advance(1.0)
    await until(lambda: len(upstream.requests) == 3)
    keeping.cancel()


async def test_a_cancelled_caller_does_not_cancel_the_fetch_of_others(keys, issuer, upstream):
    release = asyncio.Event()
    upstream.reply_next(Script([issuer.jwks()], headers={}, framing="length", before_head=[Wait(release)]))
    first, second = (asyncio.create_task(found(keys, "one")) for _ in range(2))
    await until(lambda: len(upstream.requests) == 1)
    first.cancel()
    await settle()
    release.set()
    assert await second


async def test_a_file_is_read_again_after_it_has_changed(tmp_path, clock, outcomes):
    file, issuer = tmp_path / "keys.json", Issuer("one")
    keys = FileKeys("corp", file, clock=clock, observer=outcomes)
    assert keys.current() is None
    file.write_bytes(issuer.jwks())
    await clock.advance(5.0)
    assert keys.current().find("one", "ES256")
    issuer.rotate("two")
    _replace(file, issuer.jwks())
    assert not (await keys.renewed()).find("two", "ES256")
    await clock.advance(5.0)
    assert keys.current().find("two", "ES256")
    for broken in (b"{", b" " * (MAX_BYTES + 1)):
        _replace(file, broken)
        await clock.advance(5.0)
        assert keys.current().find("two", "ES256")
    assert outcomes == ["failed", "ok", "ok", "failed", "failed"]
    file.unlink()
    os.mkfifo(file)
    await clock.advance(5.0)
    assert keys.current().find("two", "ES256"), "a pipe is not opened, which would block"
    assert outcomes[5:] == ["failed"]


def _replace(file, content):
    other = file.with_suffix(".new")
    other.write_bytes(content)
    other.replace(file)


ANY = public("x", rsa_key())


@pytest.mark.parametrize(
    "entry",
    {
        "number": 5,
        "empty": {},
        "symmetric": {"kty": "oct", "kid": "x", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"},
        "for encryption": ANY | {"use": "enc"},
        "RSA-OAEP": ANY | {"alg": "RSA-OAEP"},
        "PS256": ANY | {"alg": "PS256"},
        "alg of a wrong type": ANY | {"alg": ["RS256"]},
        "for signing": ANY | {"key_ops": ["sign"]},
        "key_ops of a wrong type": ANY | {"key_ops": 5},
        "kid of a wrong type": ANY | {"kid": 5},
        "tiny": ANY | {"n": "AQAB"},
        "n of a wrong type": ANY | {"n": 5},
        "1024 bits": public("x", rsa_key(1024)),
        "not on the curve": {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "x"},
    }.items(),
    ids=lambda item: item[0],
)
def test_other_entries_of_a_set_are_left_out(entry):
    _, entry = entry
    parsed = parse_key_set(Issuer("one").jwks(entry))
    assert parsed.find("one", "ES256")
    assert [parsed.find("x", algorithm) for algorithm in ("RS256", "ES256", "HS256", "PS256")] == [None] * 4
    with pytest.raises(ValueError, match="no key for"):
        parse_key_set(json.dumps({"keys": [entry]}).encode())


def test_a_key_without_an_id_is_found_only_where_it_is_the_only_one():
    single, several = parse_key_set(Issuer("one").jwks()), parse_key_set(Issuer("one", "two").jwks())
    assert single.find(None, "ES256")
    assert single.find(None, "RS256") is None
    assert several.find(None, "ES256") is None
