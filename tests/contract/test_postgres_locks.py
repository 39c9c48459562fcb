"""Concurrent units on the same rows in PostgreSQL: which one waits, what it finds after the wait, and that there is no
deadlock.
"""

import asyncio
import random
from contextlib import asynccontextmanager

import asyncpg
import pytest
from parley_server.core.model import FinishReason, Usage
from parley_server.core.quota_values import Charge, QuotaLimit
from parley_server.core.store_types import (
    Accepted,
    Busy,
    CancelTarget,
    ConversationGone,
    ConversationTaken,
    ConversationUpdate,
    MessageFilter,
    OverQuota,
    Position,
)
from parley_server.core.usage_values import UsageGroup, UsageQuery
from parley_server.errors import ConversationNotFound, ReplyNotFound
from parley_server.store import open_store
from parley_server.store.replicas import connection_name
from sqlalchemy import event
from sqlalchemy.util import await_only

from tests.contract.conftest import DATABASE
from tests.contract.store_values import (
    ADA,
    NOW_US,
    SECOND_US,
    acceptance,
    accepted,
    answered,
    checkpoint,
    created,
    finalisation,
    new_conversation,
    summary,
    unique,
)
from tests.contract.test_store_quotas import DAY, MONTH, TOTAL, holding
from tests.contract.test_store_replicas import LONG_S, OVER_S, owned_by, taken
from tests.processes import until

DAY_US = 24 * 3600 * SECOND_US
ROOMY = tuple(QuotaLimit(row=row, tokens=10**9) for row in (TOTAL, DAY, MONTH))


@pytest.fixture
async def stores(empty_database):
    """The stores of three replicas on one database."""
    opened = [open_store(empty_database) for _ in range(3)]
    for each in opened:
        await each.start()
    yield opened
    for each in opened:
        await each.close()


@pytest.fixture
def ask(postgres):
    async def ask(sql: str, *arguments: object) -> list[tuple]:
        return await postgres.query(sql, *arguments, database=DATABASE)

    return ask


@pytest.fixture
async def named(empty_database):
    """Opens connections named like a replica's. They are closed with the test's database."""
    made: list[asyncpg.Connection] = []

    async def connect(replica_id: str) -> asyncpg.Connection:
        settings = {"application_name": connection_name(replica_id)}
        url = empty_database.replace("+asyncpg", "")
        made.append(await asyncpg.connect(url, ssl=False, server_settings=settings))
        return made[-1]

    yield connect
    for each in made:
        each.terminate()


@asynccontextmanager
async def before_commit(store, calling, *, lane: bool = False):
    """A call that is paused before its commit, which happens at the end of the `with`."""
    ready, go_on = asyncio.Event(), asyncio.Event()

    def hold(_) -> None:
        ready.set()
        await_only(go_on.wait())

    database = store._database
    engine = database._lane if lane else database._pool
    event.listen(engine.sync_engine, "commit", hold, once=True)
    task = asyncio.ensure_future(calling)
    try:
        async with asyncio.timeout(10):
            await ready.wait()
        yield task
    finally:
        go_on.set()
        await asyncio.wait([task])


@pytest.fixture
def meet(stores, ask):
    """Run two calls on different stores and return their results. The second starts just before the first one's commit;
    the database must show that it waits for the first."""

    async def meet(first, second, *, lane: bool = False):
        mine, other, _ = stores
        async with before_commit(mine, first(mine), lane=lane) as ahead:
            behind = asyncio.ensure_future(second(other))
            await until(lambda: waits(behind), "the second waits", limit_s=5)
        return await asyncio.gather(ahead, behind)

    async def waits(behind: asyncio.Future) -> bool:
        assert not behind.done(), behind
        return bool(await ask("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))

    return meet


@pytest.fixture
def between(stores):
    """Run `interlude` once on another store, just before the first executes a statement with this beginning."""

    def between(words: str, interlude) -> None:
        done: list[str] = []

        def before(_connection, _cursor, statement: str, *_) -> None:
            if statement.startswith(words) and not done:
                done.append(statement)
                await_only(interlude(stores[1]))

        event.listen(stores[0]._database._pool.sync_engine, "before_cursor_execute", before)

    return between


async def test_an_acceptance_that_meets_an_erasure_finds_the_conversation_gone(stores, meet):
    conversation = await created(stores[2])
    asked = acceptance(conversation)
    outcomes = await meet(
        lambda store: store.delete_conversation(ADA, conversation.id, ""), lambda store: store.accept(asked)
    )
    assert outcomes == [(), ConversationGone()]


async def test_an_erasure_that_meets_an_acceptance_finds_its_reply(stores, meet):
    conversation = await created(stores[2])
    asked = acceptance(conversation)
    outcomes = await meet(
        lambda store: store.accept(asked), lambda store: store.delete_conversation(ADA, conversation.id, "")
    )
    assert outcomes == [Accepted(reply=asked.reply), Busy(reply_id=asked.reply.id)]


async def test_an_erasure_that_meets_the_end_of_a_reply_erases_it(stores, meet):
    reply = await accepted(stores[2], await created(stores[2]))
    ended, erased = await meet(
        lambda store: store.finalise(finalisation(reply)),
        lambda store: store.delete_conversation(ADA, reply.conversation_id, ""),
    )
    assert ended.won
    assert erased == (reply.id,)


async def test_an_acceptance_that_meets_the_end_of_a_reply_follows_it(stores, meet):
    conversation = await created(stores[2])
    reply = await accepted(stores[2], conversation)
    beside = acceptance(conversation, parent="")
    ended, second = await meet(lambda store: store.finalise(finalisation(reply)), lambda store: store.accept(beside))
    assert (ended.won, second) == (True, Accepted(reply=beside.reply))


async def test_checkpoints_that_meet_the_end_of_their_reply_are_skipped(stores, meet, ask):
    reply = await accepted(stores[2], await created(stores[2]))
    ended, _ = await meet(
        lambda store: store.finalise(finalisation(reply)),
        lambda store: store.append_checkpoints([checkpoint(reply, "late")]),
    )
    assert ended.won
    assert await ask("SELECT 1 FROM checkpoint") == []
    assert (await stores[2].get_reply(ADA, reply.id)) == ended.reply


async def test_the_end_of_a_reply_that_meets_its_checkpoints_deletes_them(stores, meet, ask):
    reply = await accepted(stores[2], await created(stores[2]))
    _, ended = await meet(
        lambda store: store.append_checkpoints([checkpoint(reply, "text")]),
        lambda store: store.finalise(finalisation(reply)),
    )
    assert ended.won
    assert await ask("SELECT 1 FROM checkpoint") == []


async def test_a_cancel_that_meets_the_end_of_a_reply_returns_it_as_it_ended(stores, meet):
    reply = await accepted(stores[2], await created(stores[2]))
    wish = (ADA, CancelTarget(reply_id=reply.id), FinishReason.CANCELLED, "late", NOW_US)
    ended, outcome = await meet(
        lambda store: store.finalise(finalisation(reply)), lambda store: store.request_cancel(*wish)
    )
    assert outcome == ended.reply


async def test_a_cancel_that_meets_the_acceptance_of_its_request_finds_the_reply(stores, meet):
    asked = acceptance(await created(stores[2]), request_id="r")
    wish = (ADA, CancelTarget(request_id="r"), FinishReason.CANCELLED, "stop", NOW_US)
    _, outcome = await meet(lambda store: store.accept(asked), lambda store: store.request_cancel(*wish))
    assert (outcome.id, outcome.cancel_reason) == (asked.reply.id, "stop")


async def test_concurrent_creations_of_one_id_create_one_conversation(stores, meet):
    new = new_conversation(id="chosen")
    asked = acceptance(new_conversation(id="chosen", now_us=NOW_US + 1).conversation, new=True)
    outcomes = await meet(lambda store: store.create_conversation(new), lambda store: store.accept(asked))
    assert outcomes[1] == ConversationTaken()


async def test_two_acceptances_for_the_last_of_a_quota_accept_one(stores, meet):
    first, second = [holding(acceptance(await created(stores[2])), tokens=600) for _ in range(2)]
    outcomes = await meet(lambda store: store.accept(first), lambda store: store.accept(second))
    assert isinstance(outcomes[0], Accepted)
    assert isinstance(outcomes[1], OverQuota)


async def test_an_acceptance_that_meets_the_end_of_a_reply_holds_what_the_end_has_left(stores, meet):
    running = holding(acceptance(await created(stores[2])), tokens=1000)
    assert isinstance(await stores[2].accept(running), Accepted)
    asked = holding(acceptance(await created(stores[2])), tokens=995)
    end = finalisation(running.reply, charge=Charge(tokens=5, cost=1))
    ended, outcome = await meet(lambda store: store.finalise(end), lambda store: store.accept(asked))
    assert ended.won
    assert {use.tokens for use in outcome.uses} == {1000}


async def test_ends_of_replies_with_the_same_quotas_wait_for_each_other(stores, meet, ask):
    replies = [holding(acceptance(await created(stores[2])), tokens=100) for _ in range(2)]
    for asked in replies:
        assert isinstance(await stores[2].accept(asked), Accepted)
    ends = [finalisation(asked.reply, charge=Charge(tokens=7, cost=1)) for asked in replies]
    await meet(lambda store: store.finalise(ends[0]), lambda store: store.finalise(ends[1]))
    assert set(await ask("SELECT used_tokens, held_tokens FROM quota_use")) == {(14, 0)}


# --- in between two statements


async def test_an_acceptance_continues_if_the_obstacle_disappears(stores, between):
    conversation = await created(stores[2])
    running = await accepted(stores[2], conversation)
    between("SELECT conversation.", lambda store: store.finalise(finalisation(running)))
    beside = acceptance(conversation, parent="")
    assert await stores[0].accept(beside) == Accepted(reply=beside.reply)


async def test_a_key_swept_during_a_claim_is_free(stores, between):
    await answered(stores[2], await created(stores[2]), request_id="old", now_us=NOW_US - 2 * DAY_US)
    sweeps: list[None] = []

    async def sweep(store) -> None:
        sweeps.append(await store._sweep_some(NOW_US))

    between("SELECT idempotency_key.payload_hash", sweep)
    await accepted(stores[0], await created(stores[2]), request_id="old")
    assert sweeps == [None]


async def test_a_mark_swept_during_a_cancel_is_written_again(stores, between, ask):
    target = CancelTarget(request_id="r")
    for reason, now_us in (("first", NOW_US - DAY_US), ("second", NOW_US)):
        assert await stores[0].request_cancel(ADA, target, FinishReason.CANCELLED, reason, now_us) is None
        between("SELECT idempotency_key.payload_hash", lambda store: store._sweep_some(NOW_US))
    assert await ask("SELECT cancel_reason, expire_time_us FROM idempotency_key") == [
        ("second", NOW_US + 60 * SECOND_US)
    ]


async def test_two_sweeps_of_keys_share_the_work(stores, meet, ask):
    for number in range(20):
        target = CancelTarget(request_id=f"mark-{number}")
        await stores[2].request_cancel(ADA, target, FinishReason.CANCELLED, "", NOW_US - DAY_US)
    await asyncio.gather(*(store._sweep_some(NOW_US) for store in stores))
    assert await ask("SELECT key FROM idempotency_key") == []


# --- leases


@pytest.mark.parametrize("known", [True, False])
async def test_a_renewal_that_meets_a_takeover_returns_the_loss(stores, meet, known):
    if known:
        await stores[2].hold_lease("late", OVER_S)
    reply = await owned_by(stores[2], "late")
    left, owned = await meet(lambda store: store.take_over("me", 10), lambda store: store.hold_lease("late", LONG_S))
    assert [each.reply for each in left] == [taken(reply, "me")]
    assert owned == []


async def test_a_takeover_skips_a_lease_that_is_being_renewed(stores):
    await stores[2].hold_lease("late", OVER_S)
    reply = await owned_by(stores[2], "late")
    async with before_commit(stores[0], stores[0].hold_lease("late", LONG_S), lane=True) as renewing:
        assert await stores[1].take_over("me", 10) == []
    assert [each.reply_id for each in await renewing] == [reply.id]
    assert await stores[1].take_over("me", 10) == []


async def test_a_takeover_skips_an_owner_that_acquires_its_first_lease(stores, meet):
    reply = await owned_by(stores[2], "new")
    owned, left = await meet(
        lambda store: store.hold_lease("new", LONG_S), lambda store: store.take_over("me", 10), lane=True
    )
    assert ([each.reply_id for each in owned], left) == ([reply.id], [])


async def test_a_takeover_skips_a_reply_that_is_being_finalised(stores):
    await stores[2].hold_lease("dead", OVER_S)
    reply = await owned_by(stores[2], "dead")
    async with before_commit(stores[0], stores[0].finalise(finalisation(reply))) as ending:
        assert await stores[1].take_over("me", 10) == []
    assert (await ending).won


@pytest.mark.parametrize("table", ["reply", "replica"])
@pytest.mark.parametrize("parsing", [False, True])
async def test_a_takeover_terminates_transactions_of_a_dead_replica(stores, ask, named, table, parsing):
    """The dead replica's process hangs inside a transaction, also between the Parse and Bind of a statement."""
    store = stores[0]
    await store.hold_lease("dead", 0.3)
    reply = await owned_by(store, "dead")
    left = await named("dead")
    await left.execute(f"BEGIN; SELECT id FROM {table} FOR UPDATE")
    if parsing:
        await left.prepare("SELECT 1")
    assert await store.take_over("me", 10) == [], "it has its lease"
    taken_over = await until(lambda: store.take_over("me", 10), "the reply is taken over")
    assert [each.reply for each in taken_over] == [taken(reply, "me")]
    await until(lambda: none_named(ask, "dead"), "its connection is ended")


async def test_a_takeover_terminates_transactions_of_a_lease_that_expires_meanwhile(stores, between, named):
    await stores[0].hold_lease("dead", LONG_S)
    locked, free = [await owned_by(stores[0], "dead") for _ in range(2)]
    left = await named("dead")
    await left.execute(f"BEGIN; SELECT id FROM reply WHERE id = '{locked.id}' FOR UPDATE")
    between("SELECT replica.id", lambda store: store.hold_lease("dead", 0.0))
    assert {each.reply.id for each in await stores[0].take_over("me", 10)} == {locked.id, free.id}


async def test_a_takeover_keeps_transactions_of_live_replicas(stores, named):
    await stores[0].hold_lease("alive", LONG_S)
    await stores[0].hold_lease("late", OVER_S)
    reply = await owned_by(stores[0], "late")
    others = [await named(name) for name in ("alive", "late", "unknown")]
    for each in others:
        await each.execute(
            "BEGIN"
        )  # the late replica's transaction began after its lease expired, so it may be a renewal
    assert [each.reply.id for each in await stores[0].take_over("me", 10)] == [reply.id]
    for each in others:
        assert await each.fetchval("SELECT 1") == 1


async def none_named(ask, replica_id: str) -> bool:
    return not await ask("SELECT 1 FROM pg_stat_activity WHERE application_name = $1", connection_name(replica_id))


# --- all at once


class Talk:
    """Random calls on a few conversations, by replicas whose leases sometimes expire."""

    def __init__(self, stores) -> None:
        self.stores = stores
        self.conversations = [f"shared-{number}" for number in range(4)]
        self.random = random.Random(7)
        self.calls = 0

    async def run(self, name: str, rounds: int) -> None:
        kinds = [self.turn] * 3
        kinds += [self.cancel, self.update, self.summarize, self.erase, self.sweep, self.look]
        for _ in range(rounds):
            store, conversation_id = self.random.choice(self.stores), self.random.choice(self.conversations)
            try:
                await self.random.choice(kinds)(store, conversation_id, name)
            except (ConversationNotFound, ReplyNotFound):
                await store.create_conversation(new_conversation(id=conversation_id))
            self.calls += 1

    async def turn(self, store, conversation_id: str, name: str) -> None:
        conversation = await store.get_conversation(ADA, conversation_id)
        request_id = self.random.choice(["", "", f"request-{self.random.randrange(5)}"])
        asked = holding(acceptance(conversation, request_id=request_id), ROOMY, tokens=3, cost=2)
        outcome = await store.accept(asked)
        if not isinstance(outcome, Accepted) or outcome.reply.state.terminal:
            return
        others = self.random.choice(self.stores)
        await asyncio.gather(
            store.append_checkpoints([checkpoint(outcome.reply, "some", "text")]),
            others.finalise(finalisation(outcome.reply, charge=Charge(tokens=5, cost=7))),
            store.request_cancel(ADA, CancelTarget(reply_id=outcome.reply.id), FinishReason.CANCELLED, "", NOW_US),
        )

    async def cancel(self, store, conversation_id: str, name: str) -> None:
        targets = [CancelTarget(conversation_id=conversation_id), CancelTarget(request_id=f"request-{name}")]
        await store.request_cancel(ADA, self.random.choice(targets), FinishReason.CANCELLED, "stop", NOW_US)

    async def update(self, store, conversation_id: str, name: str) -> None:
        update = ConversationUpdate(conversation_id=conversation_id, title=name, labels={"by": name})
        await store.update_conversation(ADA, update, NOW_US)

    async def summarize(self, store, conversation_id: str, name: str) -> None:
        conversation = await store.get_conversation(ADA, conversation_id)
        made = summary(conversation, conversation.head_message_id, text=name)
        await store.add_summary(made, Usage(), usage_id=unique("usage"), provider="scripted")

    async def erase(self, store, conversation_id: str, name: str) -> None:
        await store.delete_conversation(ADA, conversation_id, "")

    async def sweep(self, store, conversation_id: str, name: str) -> None:
        await store.hold_lease(name, OVER_S)
        for left in await store.take_over(name, 3):
            await store.append_checkpoints([checkpoint(left.reply, "more")])
            await store.finalise(finalisation(left.reply, charge=Charge(tokens=5, cost=7)))
        await store.roll_usage(10)

    async def look(self, store, conversation_id: str, name: str) -> None:
        await store.read_turn(ADA, conversation_id, Position(), has_input=True)
        await store.list_messages(ADA, MessageFilter(conversation_id=conversation_id), 5)
        await store.list_usage(UsageQuery(groups=(UsageGroup.DAY,)), (), 5)


async def test_concurrent_calls_of_all_kinds_keep_the_invariants(stores, ask, caplog):
    caplog.set_level("INFO", "parley.store")
    talk = Talk(stores)
    await asyncio.gather(*(talk.run(f"r{number}", 25) for number in range(30)))
    assert talk.calls == 750
    again = {record.fields["problem"] for record in caplog.records if record.message == "transaction_retried"}
    assert all("violates foreign key" in problem for problem in again), "nobody waited in a circle"
    assert await ask(ORPHANS) == [(0, 0, 0)]
    assert await ask(GAPS) == []
    [(ended, running)] = await ask(COUNTS)
    assert set(await ask("SELECT used_tokens, used_cost, held_tokens, held_cost FROM quota_use")) == {
        (5 * ended, 7 * ended, 3 * running, 2 * running)
    }


COUNTS = """
SELECT (SELECT count(*) FROM usage WHERE kind = 'reply'),
       (SELECT count(*) FROM reply WHERE state IN ('PENDING', 'STREAMING'))
"""
ORPHANS = """
SELECT (SELECT count(*) FROM checkpoint JOIN reply ON id = reply_id WHERE state NOT IN ('PENDING', 'STREAMING')),
       (SELECT count(*) FROM reply WHERE state = 'COMPLETED' AND id NOT IN (SELECT reply_id FROM usage)),
       (SELECT count(*) FROM reply WHERE state = 'COMPLETED' AND message_id NOT IN (SELECT id FROM message))
"""
GAPS = """
SELECT id FROM conversation c WHERE next_position <> 1 +
    (SELECT count(*) FROM message m WHERE m.tenant = c.tenant AND m.conversation_id = c.id)
"""
