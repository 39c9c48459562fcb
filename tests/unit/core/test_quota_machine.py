"""Random replies of two replicas under quotas: after each step `quota_use` has what they hold and have used."""

from __future__ import annotations

import asyncio
import functools
import json
import shutil
import sqlite3
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from parley_server.core.access import Quota, TenantPolicy, Tenants
from parley_server.core.model import Conversation, Identity, ImagePart, Message, Role
from parley_server.core.replies.generate import Generation
from parley_server.core.store_types import CancelTarget
from parley_server.errors import ParleyError, ProviderUnavailable, ReplyNotFound
from parley_server.store import open_store
from parley_server.store.migrate import migrate

from tests.endurance import rounds
from tests.fakes import STOP, reply_request
from tests.replicas import Cluster, Replica

TENANTS = Tenants(
    {
        "shop": TenantPolicy(
            quotas=Quota(tokens_per_day=450, cost_per_month=900_000),
            totals=Quota(tokens_per_month=700, cost_per_day=5_000_000),
        )
    }
)
USERS = ("ada", "ben", "")
DAY_S = 86_400.0
AT = st.integers(0, 1)
"""The index of a replica."""


class StepwiseAnswer:
    """An answer whose steps the state machine adds: texts, an error, or None for its end."""

    def __init__(self) -> None:
        self.steps: asyncio.Queue[str | ParleyError | None] = asyncio.Queue()

    async def generate(self, prompt, sink):
        while (step := await self.steps.get()) is not None:
            if isinstance(step, ParleyError):
                raise step
            sink.text(step)
            sink.flush()
        return STOP


@functools.cache
def template() -> Path:
    path = Path(tempfile.mkdtemp()) / "parley.db"
    migrate(f"sqlite+aiosqlite:///{path}")
    return path


class Quotas(RuleBasedStateMachine):
    running = Bundle("running")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "parley.db"
        shutil.copy(template(), self.path)
        self.runner = asyncio.Runner()
        self.plans: dict[str, dict[str, Any]] = {}
        self.answers: dict[str, StepwiseAnswer] = {}
        self.marks = 0
        self.runner.run(self.begin())

    async def begin(self) -> None:
        self.store = open_store(f"sqlite+aiosqlite:///{self.path}")
        await self.store.start()
        self.cluster = Cluster(self.store)
        self.replicas = [await self.join() for _ in range(2)]

    async def join(self) -> Replica:
        return await self.cluster.join(f"replica-{len(self.cluster.replicas)}", tenants=TENANTS)

    def do(self, work) -> Any:
        """Move the clock until `work` is done and all replicas are idle. Returns its result or its `ParleyError`."""

        async def whole() -> Any:
            working = asyncio.ensure_future(work)
            await self.cluster.settle()
            while not working.done():
                await self.cluster.advance(0.5)
            await self.cluster.settle()
            error = working.exception()
            if error is not None and not isinstance(error, ParleyError):
                raise error
            return error or working.result()

        return self.runner.run(whole())

    def accept(self, replica: Replica, user: str, **fields: Any) -> Generation | ParleyError:
        answer = StepwiseAnswer()
        replica.provider.answer = answer.generate
        made = self.do(replica.core.acceptances.accept(reply_request(identity=owner(user), **fields)))
        if isinstance(made, Generation):
            replica.generations.append(made)
            self.answers[made.log.reply.id] = answer
        return made

    @rule(target=running, at=AT, user=st.sampled_from(USERS), number=st.integers(0, 3), lost=st.booleans())
    def start_reply(self, at: int, user: str, number: int, lost: bool) -> str:
        """Start a reply in one of four conversations, some of which exist. `lost`: the answer of the commit is lost."""
        replica = self.replicas[at]
        if lost:
            replica.store.fail("accept", times=1, after=True)
        conversation_id = f"{user}-{number}"
        exists = self.sql("SELECT 1 FROM conversation WHERE id = ?", conversation_id)
        place = (
            {"conversation_id": conversation_id} if exists else {"new_conversation": Conversation(id=conversation_id)}
        )
        made = self.accept(replica, user, **place)
        replica.store.after.pop("accept", None)
        return made.log.reply.id if isinstance(made, Generation) else ""

    @rule(at=AT, by=st.sampled_from(["id", "head", "image"]))
    def request_refused_otherwise(self, at: int, by: str) -> None:
        """Send a request that is refused for another reason than a quota, before or after the quota is held."""
        replica, refused = self.replicas[at], {}
        existing = self.sql("SELECT id FROM conversation WHERE end_user = 'ada' LIMIT 1")
        if not existing:
            return
        if by == "id":
            refused["new_conversation"] = Conversation(id=existing[0][0])
        elif by == "head":
            refused["conversation_id"] = existing[0][0]
            replica.store.before["accept"] = self.move_head
        else:
            parts = (ImagePart(image_id="absent"),)
            refused |= {"conversation_id": existing[0][0], "messages": (Message(role=Role.USER, parts=parts),)}
        self.accept(replica, "ada", **refused)
        replica.store.before.pop("accept", None)

    async def move_head(self, *_: Any) -> None:
        connection = sqlite3.connect(self.path)
        with connection:
            connection.execute("UPDATE conversation SET head_message_id = '' WHERE end_user = 'ada'")
        connection.close()

    @rule(reply_id=running, words=st.sampled_from(["Hello", "Hello " * 30]))
    def write(self, reply_id: str, words: str) -> None:
        self.add_step(reply_id, words)

    @rule(reply_id=consumes(running), error=st.booleans())
    def end(self, reply_id: str, error: bool) -> None:
        self.add_step(reply_id, ProviderUnavailable("gone") if error else None)

    @rule(reply_id=running, at=AT)
    def cancel(self, reply_id: str, at: int) -> None:
        self.do(self.replicas[at].replies.cancel(Identity(tenant="shop"), CancelTarget(reply_id=reply_id), "enough"))

    @rule(at=AT)
    def cancel_before_the_request(self, at: int) -> None:
        self.marks += 1
        request_id = f"marked-{self.marks}"
        cancelling = self.replicas[at].replies.cancel(owner("ada"), CancelTarget(request_id=request_id), "early")
        assert isinstance(self.do(cancelling), ReplyNotFound)
        self.accept(self.replicas[at], "ada", request_id=request_id)

    @rule(reply_id=running, at=AT)
    def erase(self, reply_id: str, at: int) -> None:
        found = self.sql("SELECT conversation_id FROM reply WHERE id = ?", reply_id)
        if found:
            self.do(self.replicas[at].conversations.delete(Identity(tenant="shop"), found[0][0], ""))

    @rule(at=AT)
    def kill(self, at: int) -> None:
        """Kill a replica and start another one; its replies are taken over."""

        async def replace() -> None:
            await self.cluster.kill(self.replicas[at])
            self.replicas[at] = await self.join()
            await self.cluster.advance(30.0)

        self.runner.run(replace())

    @rule()
    def next_day(self) -> None:
        self.cluster.clock.correct(DAY_S)

    def add_step(self, reply_id: str, step: str | ParleyError | None) -> None:
        async def put() -> None:
            if reply_id in self.answers:
                self.answers[reply_id].steps.put_nowait(step)

        self.do(put())

    def sql(self, statement: str, *given: Any) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(self.path)
        try:
            return connection.execute(statement, given).fetchall()
        finally:
            connection.close()

    @invariant()
    def uses_are_what_replies_hold_and_have_used(self) -> None:
        held, used = Counter(), Counter()
        active = set()
        for reply_id, state, plan in self.sql("SELECT id, state, plan FROM reply"):
            self.plans[reply_id] = json.loads(plan)["held"]
            if state in ("PENDING", "STREAMING"):
                active.add(reply_id)
                add(held, self.plans[reply_id], self.plans[reply_id]["tokens"], self.plans[reply_id]["cost"])
        ended = self.sql(
            "SELECT reply_id, prompt_tokens + completion_tokens, cost_nano_usd, state, text_length FROM usage"
        )
        for reply_id, tokens, cost, state, length in ended:
            assert reply_id not in active
            if state != "FAILED" or length:
                add(used, self.plans[reply_id], tokens, cost or 0)
        rows = self.sql("SELECT scope, end_user, period, used_tokens, used_cost, held_tokens, held_cost FROM quota_use")
        for *row, used_tokens, used_cost, held_tokens, held_cost in rows:
            key = tuple(row)
            assert (held_tokens, held_cost) == (held[key, "tokens"], held[key, "cost"]), row
            assert (used_tokens, used_cost) == (used[key, "tokens"], used[key, "cost"]), row
        assert {key for key, _ in (+held + +used)} <= {tuple(row[:3]) for row in rows}

    def teardown(self) -> None:
        async def end() -> None:
            await self.cluster.aclose()
            await self.store.close()

        self.runner.run(end())
        self.uses_are_what_replies_hold_and_have_used()
        assert self.sql("SELECT sum(held_tokens), sum(held_cost) FROM quota_use") in ([(0, 0)], [(None, None)])
        self.runner.close()
        shutil.rmtree(self.folder)


def owner(user: str) -> Identity:
    return Identity(tenant="shop", end_user=user)


def add(to: Counter, held: dict[str, Any], tokens: int, cost: int) -> None:
    for row in held["rows"]:
        to[tuple(row), "tokens"] += tokens
        to[tuple(row), "cost"] += cost


Quotas.TestCase.settings = settings(
    max_examples=rounds(20, short=8),
    stateful_step_count=25,
    deadline=None,
    phases=[Phase.generate],  # shrinking takes minutes, and the steps of a failure are readable without it
    suppress_health_check=list(HealthCheck),
)
TestQuotas = Quotas.TestCase
