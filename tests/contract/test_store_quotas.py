"""Quotas in the store: held by acceptances, settled by the ends of replies, and unchanged by refusals."""

import asyncio

import msgspec
import pytest
from parley_server.core.model import FinishReason
from parley_server.core.quota_values import TENANT, USER, Charge, Hold, QuotaLimit, QuotaRow, QuotaUse
from parley_server.core.store_types import Accepted, CancelTarget, ConversationTaken, HeadMoved, OverQuota
from parley_server.store import quotas, schema
from parley_server.store.quotas import MOST_USED
from sqlalchemy import update

from tests.contract.store_values import ADA, NOW_US, acceptance, created, finalisation, new_conversation

DAY, MONTH = QuotaRow(USER, "ada", "2027-01-15"), QuotaRow(USER, "ada", "2027-01")
TOTAL = QuotaRow(TENANT, "", "2027-01")
LIMITS = (
    QuotaLimit(row=DAY, tokens=1000),
    QuotaLimit(row=MONTH, tokens=5000, cost=900),
    QuotaLimit(row=TOTAL, cost=2000),
)
USES = "SELECT scope, end_user, period, used_tokens, used_cost, held_tokens, held_cost FROM quota_use ORDER BY 1, 2, 3"


def holding(asked, limits=LIMITS, *, tokens=100, cost=10):
    """The acceptance with a hold."""
    held = Hold(tokens=tokens, cost=cost, rows=tuple(limit.row for limit in limits))
    return msgspec.structs.replace(asked, plan=msgspec.structs.replace(asked.plan, held=held), quotas=limits)


@pytest.fixture
def dump(query):
    """All rows of the tables that an acceptance writes."""
    tables = ("idempotency_key", "conversation", "message", "reply", "quota_use")
    return lambda: {table: sorted(map(repr, query(f"SELECT * FROM {table}"))) for table in tables}


@pytest.fixture
def between_claim_and_move(monkeypatch):
    """Makes the head move in the middle of the next acceptance."""

    def move() -> None:
        hold = quotas.hold

        def hold_and_move(connection, *given):
            connection.execute(update(schema.conversation).values(head_message_id="another"))
            return hold(connection, *given)

        monkeypatch.setattr(quotas, "hold", hold_and_move)

    return move


async def begun(store, conversation, **fields):
    outcome = await store.accept(holding(acceptance(conversation), **fields))
    assert isinstance(outcome, Accepted), outcome
    return outcome.reply


def rows(used_tokens, used_cost, held_tokens, held_cost):
    """All rows of LIMITS with these values."""
    numbers = (used_tokens, used_cost, held_tokens, held_cost)
    return [(row.scope, row.end_user, row.period, *numbers) for row in (TOTAL, MONTH, DAY)]


@pytest.mark.parametrize("new", [False, True])
async def test_an_acceptance_holds_and_the_end_of_the_reply_settles(store, query, new):
    conversation = new_conversation().conversation if new else await created(store)
    asked = holding(acceptance(conversation, new=new))
    outcome = await store.accept(asked)
    assert outcome.reply == asked.reply
    assert {use.row: (use.tokens, use.cost) for use in outcome.uses} == dict.fromkeys((DAY, MONTH, TOTAL), (100, 10))
    assert query(USES) == rows(0, 0, 100, 10)
    assert (await store.accept(asked)).uses == (), "the same acceptance again holds nothing more"
    await store.finalise(finalisation(asked.reply, charge=Charge(tokens=70, cost=12)))
    assert query(USES) == rows(70, 12, 0, 0)
    await store.finalise(finalisation(asked.reply, charge=Charge(tokens=70, cost=12)))
    assert query(USES) == rows(70, 12, 0, 0), "an end that is stored again settles nothing more"


async def test_a_reply_that_was_taken_over_is_settled_once(store, query):
    reply = await begun(store, await created(store))
    await store.hold_lease("late", 0.0)
    [taken] = await store.take_over("me", 10)
    assert not (await store.finalise(finalisation(reply, charge=Charge(tokens=1)))).won
    assert query(USES) == rows(0, 0, 100, 10)
    assert (await store.finalise(finalisation(taken.reply, charge=Charge(tokens=2)))).won
    assert query(USES) == rows(2, 0, 0, 0)


async def test_a_cancel_that_came_first_leaves_no_use(store, query):
    asked = holding(acceptance(await created(store), request_id="r"))
    await store.request_cancel(ADA, CancelTarget(request_id="r"), FinishReason.CANCELLED, "stop", NOW_US)
    assert (await store.accept(asked)).reply.state.terminal
    assert query(USES) == rows(0, 0, 0, 0)


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("limit", LIMITS)
async def test_a_reply_that_needs_more_than_one_of_its_limits_leaves_no_trace(store, query, dump, limit, new):
    await begun(store, await created(store), tokens=600, cost=10)
    limits = tuple(QuotaLimit(row=each.row, tokens=699, cost=19) if each == limit else each for each in LIMITS)
    conversation = new_conversation().conversation if new else await created(store)
    before = dump()
    outcome = await store.accept(holding(acceptance(conversation, new=new), limits=limits))
    assert outcome == OverQuota(uses=(QuotaUse(row=limit.row, tokens=600, cost=10),))
    assert dump() == before


@pytest.mark.parametrize("found", ["used up", "empty"])
async def test_a_hold_above_its_limit_is_refused_whatever_is_used(store, dump, found):
    if found == "used up":
        await begun(store, await created(store), tokens=1000)
    asked = holding(acceptance(await created(store)), tokens=1001)
    before = dump()
    uses = (QuotaUse(row=DAY, tokens=1000, cost=10),) if found == "used up" else ()
    assert await store.accept(asked) == OverQuota(uses=uses)
    assert dump() == before


async def test_other_refusals_after_the_hold_take_it_back(store, query, dump, between_claim_and_move):
    conversation, taken = await created(store), await created(store)
    before = dump()
    asked = holding(acceptance(msgspec.structs.replace(new_conversation().conversation, id=taken.id), new=True))
    assert await store.accept(asked) == ConversationTaken()
    assert dump() == before
    between_claim_and_move()
    assert await store.accept(holding(acceptance(conversation))) == HeadMoved()
    assert query(USES) == []


async def test_concurrent_acceptances_hold_exactly_what_there_is_room_for(store, query):
    conversations = [await created(store) for _ in range(30)]
    outcomes = await asyncio.gather(*(store.accept(holding(acceptance(each))) for each in conversations))
    assert sum(isinstance(outcome, Accepted) for outcome in outcomes) == 10
    assert query(USES) == rows(0, 0, 1000, 100)


async def test_huge_charges_end_replies_all_the_same(store, query):
    """No sum of charges exceeds its column, whose error would keep the reply from ending."""
    huge = Charge(tokens=2**31, cost=10**15)
    limits = (QuotaLimit(row=TOTAL, tokens=2**62),)
    conversation = await created(store)
    reply = await begun(store, conversation, limits=limits)
    query(f"UPDATE quota_use SET used_cost = {MOST_USED - 1}")
    assert (await store.finalise(finalisation(reply, charge=huge))).won
    assert query("SELECT used_cost FROM quota_use") == [(MOST_USED - 1 + 10**15,)]
    again = await begun(store, await created(store), limits=limits)
    assert (await store.finalise(finalisation(again, charge=huge))).won
    assert query("SELECT used_cost, held_cost FROM quota_use") == [(MOST_USED - 1 + 10**15, 0)]


async def test_an_end_whose_rows_were_erased_settles_nothing(store, query):
    reply = await begun(store, await created(store))
    query("DELETE FROM quota_use WHERE scope = 'user'")
    assert (await store.finalise(finalisation(reply, charge=Charge(tokens=5, cost=1)))).won
    assert query(USES) == rows(5, 1, 0, 0)[:1]


async def test_uses_are_read_by_row(store):
    await begun(store, await created(store))
    beside = QuotaRow(USER, "ben", DAY.period)
    assert await store.read_quotas("shop", [DAY, beside]) == [QuotaUse(row=DAY, tokens=100, cost=10)]
    assert await store.read_quotas("rival", [DAY]) == []
