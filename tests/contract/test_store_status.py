"""What the database shows operators: leases, running replies by owner, model and age, and the fullest quotas."""

import msgspec
import pytest
from parley_server import __version__
from parley_server.core.quota_values import QuotaRow
from parley_server.core.status_values import QuotaCap, QuotaCaps, QuotaSpot
from parley_server.store.status import MOST_PASSES

from tests.contract.store_values import SECOND_US, acceptance, answered, created, finalisation

DAY, MONTH = "2026-11-30", "2026-11"
KINDS = ("tokens", "cost_nano_usd")
OVER_S = -30.0


async def running(store, owner, age_s, now_us, **changes):
    asked = acceptance(await created(store), now_us=now_us - round(age_s * SECOND_US))
    reply = msgspec.structs.replace(asked.reply, owner=owner, **changes)
    await store.accept(msgspec.structs.replace(asked, reply=reply))
    return reply


async def now_us(store, query):
    await store.hold_lease("clock", 60.0)
    [(start_us,)] = query("SELECT start_time_us FROM replica WHERE id = 'clock'")
    await store.release_lease("clock")
    return start_us


async def test_leases_with_versions_and_running_replies_by_model_and_age(store, query):
    now = await now_us(store, query)
    await store.hold_lease("a", 60.0)
    await store.hold_lease("b", OVER_S)
    query("INSERT INTO replica (id, lease_until_us, start_time_us) VALUES ('older', 0, 0)")
    for owner, age_s in (("a", 1), ("a", 15), ("b", 90), ("gone", 700)):
        await running(store, owner, age_s, now)
    await running(store, "a", -5, now, model="", requested_model="slow")
    await answered(store, await created(store))
    ended = await running(store, "a", 1, now)
    await store.finalise(finalisation(ended))

    found = await store.read_status()
    assert found.schema_release == 3
    leases = {lease.replica_id: lease for lease in found.replicas}
    assert {name: (lease.version, lease.running) for name, lease in leases.items()} == {
        "a": (__version__, 3),
        "b": (__version__, 1),
        "older": ("", 0),
    }
    assert 50 < leases["a"].lease_left_s <= 60
    assert -40 < leases["b"].lease_left_s <= OVER_S
    assert leases["a"].start_time_us >= now
    assert found.unowned == 1
    fast, slow = found.running
    assert (fast.model, fast.replies, fast.older) == ("fast", 4, (3, 2, 1))
    assert 700 <= fast.oldest_s < 720
    assert (slow.model, slow.replies, slow.older, slow.oldest_s) == ("slow", 1, (0, 0, 0), 0.0)


async def test_an_empty_database(store):
    found = await store.read_status()
    assert (found.replicas, found.running, found.unowned) == ((), (), 0)
    assert await store.quota_spots(QuotaCaps(), 10) == []


def cap(tenant, scope, period, kind, most):
    return QuotaCap(tenant=tenant, scope=scope, period=period, kind=kind, most=most)


@pytest.mark.parametrize("more", [0, MOST_PASSES], ids=["few limits", "many limits"])
async def test_the_quotas_of_which_the_largest_parts_are_used(store, query, more):
    for row in (
        ("shop", "user", "ada", DAY, 50, 400, 40, 0),  # 90 % of its tokens, with what is held
        ("shop", "user", "ben", DAY, 60, 0, 0, 0),
        ("shop", "user", "dora", DAY, 49, 10, 0, 0),  # less than half
        ("shop", "user", "ada", "2026-11-29", 99, 0, 0, 0),  # another day
        ("shop", "tenant", "", MONTH, 0, 500, 0, 200),  # 70 % of its cost
        ("shop", "user", "cleo", DAY, 0, 0, 0, 0),  # nothing is used
        ("bank", "user", "ada", DAY, 50, 0, 0, 0),  # has no table: the limits of the others, 50 %
        ("big", "user", "ada", DAY, 400, 0, 0, 0),  # less than half of a larger limit
        ("free", "user", "ada", DAY, 10**12, 0, 0, 0),  # has a table without quotas
    ):
        columns = "tenant, scope, end_user, period, used_tokens, used_cost, held_tokens, held_cost"
        query(f"INSERT INTO quota_use ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", *row)
    caps = (
        cap("shop", "user", DAY, "tokens", 100),
        cap("shop", "user", DAY, "cost_nano_usd", 1000),
        cap("shop", "tenant", MONTH, "cost_nano_usd", 1000),
        cap("big", "user", DAY, "tokens", 1000),
        cap("*", "user", DAY, "tokens", 100),
    )

    def spot(tenant, scope, end_user, period, kind, most, used):
        return QuotaSpot(tenant=tenant, row=QuotaRow(scope, end_user, period), kind=kind, most=most, used=used)

    everything = [
        spot("shop", "user", "ada", DAY, "tokens", 100, 90),
        spot("shop", "tenant", "", MONTH, "cost_nano_usd", 1000, 700),
        spot("shop", "user", "ben", DAY, "tokens", 100, 60),
        spot("bank", "user", "ada", DAY, "tokens", 100, 50),
    ]
    others = tuple(cap(f"t{number}", "user", DAY, kind, 10 + number) for number in range(more) for kind in KINDS)
    named = ("shop", "big", "free", *dict.fromkeys(each.tenant for each in others))
    asked = QuotaCaps(caps=(*caps, *others), named=named)
    assert await store.quota_spots(asked, 10) == everything
    for limit in (1, 2):
        assert await store.quota_spots(asked, limit) == everything[:limit]
