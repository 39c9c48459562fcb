"""Implements the Store port in SQL: runs each function of this package in the right kind of transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from parley_server.core.model import Conversation, FinishReason, Identity, ImagePart, Reply, Usage
from parley_server.core.ports import FIRST_PLACE
from parley_server.core.quota_values import QuotaRow, QuotaUse
from parley_server.core.status_values import QuotaCaps, QuotaSpot, StoredStatus
from parley_server.core.store_types import (
    Acceptance,
    AcceptOutcome,
    Busy,
    CancelTarget,
    Checkpoint,
    ConversationFilter,
    ConversationPage,
    ConversationUpdate,
    CreateOutcome,
    ErasedConversations,
    Finalisation,
    Finalised,
    KeyPlace,
    MessageFilter,
    MessagePage,
    NewConversation,
    Position,
    PromptSource,
    Replayed,
    Standing,
    StoredKey,
    Summary,
    Unfinished,
)
from parley_server.core.usage_values import UsagePage, UsageQuery
from parley_server.errors import InvalidRequest, StorageUnavailable
from parley_server.store import (
    conversations,
    erasure,
    history,
    images,
    listings,
    provider_keys,
    quotas,
    replicas,
    replies,
    request_ids,
)
from parley_server.store.acceptance import accept
from parley_server.store.checkpoints import append_checkpoints
from parley_server.store.engine.database import Database
from parley_server.store.engine.driver_errors import timed_out
from parley_server.store.finalisation import finalise
from parley_server.store.migrate import check_schema, schema_release
from parley_server.store.status import quota_spots, read_status
from parley_server.store.summaries import add_summary
from parley_server.store.usage import count_unrolled, roll_usage
from parley_server.store.usage_sums import list_usage

SWEEP_INTERVAL_US = 60 * 1_000_000


class SqlStore:
    """`Store`, `KeyStore`, `StatusStore` and `ErasureStore` of `core.ports` on SQLite or PostgreSQL. On SQLite the
    caller must hold the `DatabaseLock`, except to read.

    Acceptances, finalisations, and changes of conversations survive a power loss once the call has returned.
    Checkpoints and cancel requests survive the death of the process.
    """

    def __init__(self, url: str, database: Database) -> None:
        self._url = url
        self._database = database
        self._next_sweep_us = 0
        self._sweep: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Check the schema and accept calls. Raises StoreUnusable if this release cannot use the schema."""
        check_schema(await asyncio.to_thread(schema_release, self._url))
        self._database.start()

    async def close(self) -> None:
        """Finish pending calls, then close the database."""
        if self._sweep is not None:
            await asyncio.wait([self._sweep])
        await self._database.close()

    async def ping(self) -> None:
        await self._database.ping()

    async def find_request(self, identity: Identity, request_id: str, now_us: int) -> Replayed | None:
        return await self._database.read(
            lambda connection: replies.find_request(connection, identity, request_id, now_us), one_state=False
        )

    async def read_turn(
        self,
        identity: Identity,
        conversation_id: str,
        position: Position,
        *,
        has_input: bool,
        new_turn: bool = False,
        max_bytes: int = 0,
        whole: bool = False,
    ) -> PromptSource:
        return await self._database.read(
            lambda connection: history.read_turn(
                connection,
                identity,
                conversation_id,
                position,
                has_input=has_input,
                new_turn=new_turn,
                max_bytes=max_bytes,
                whole=whole,
            ),
            one_state=False,  # messages never change, and the acceptance checks the rest again
        )

    async def accept(self, acceptance: Acceptance) -> AcceptOutcome:
        outcome = await self._database.write(lambda connection: accept(connection, acceptance))
        self._sweep_keys(acceptance.now_us)
        return outcome

    async def read_quotas(self, tenant: str, rows: Sequence[QuotaRow]) -> list[QuotaUse]:
        return await self._database.read(lambda connection: quotas.read_uses(connection, tenant, rows), one_state=False)

    async def count_running(self, tenant: str) -> int:
        return await self._database.read(lambda connection: replies.count_running(connection, tenant), one_state=False)

    async def append_checkpoints(self, checkpoints: list[Checkpoint]) -> None:
        await self._database.write(lambda connection: append_checkpoints(connection, checkpoints), durable=False)

    async def finalise(self, finalisation: Finalisation) -> Finalised | None:
        return await self._database.write(lambda connection: finalise(connection, finalisation))

    async def add_summary(self, summary: Summary, usage: Usage, *, usage_id: str, provider: str) -> bool:
        return await self._database.write(
            lambda connection: add_summary(connection, summary, usage, usage_id=usage_id, provider=provider)
        )

    async def roll_usage(self, limit: int) -> int:
        return await self._database.write(lambda connection: roll_usage(connection, limit), durable=False)

    async def count_unrolled(self) -> int:
        return await self._database.read(count_unrolled, one_state=False)

    async def list_usage(self, query: UsageQuery, after: Sequence[str], limit: int) -> UsagePage:
        try:
            return await self._database.read(lambda connection: list_usage(connection, query, after, limit))
        except StorageUnavailable as error:
            if timed_out(error):
                raise InvalidRequest.field("start_time", "the range takes too long to add up: choose less") from error
            raise

    async def request_cancel(
        self, identity: Identity, target: CancelTarget, kind: FinishReason, reason: str, now_us: int
    ) -> Reply | None:
        return await self._database.write(
            lambda connection: replies.request_cancel(
                connection, identity, target, kind=kind, reason=reason, now_us=now_us
            ),
            durable=False,
        )

    async def get_reply(self, identity: Identity, reply_id: str) -> Reply:
        return await self._database.read(
            lambda connection: replies.get_reply(connection, identity, reply_id), one_state=False
        )

    async def unfinished(self, limit: int, reply_id: str = "") -> list[Unfinished]:
        return await self._database.read(lambda connection: replies.unfinished(connection, limit, reply_id))

    async def unfinished_ids(self) -> list[str]:
        return await self._database.read(replies.unfinished_ids, one_state=False)

    async def standings(self, reply_ids: list[str]) -> list[Standing]:
        return await self._database.read(lambda connection: replicas.standings(connection, reply_ids), one_state=False)

    async def hold_lease(self, replica_id: str, lease_s: float) -> list[Standing]:
        return await self._database.urgent(lambda connection: replicas.hold_lease(connection, replica_id, lease_s))

    async def release_lease(self, replica_id: str) -> None:
        await self._database.urgent(lambda connection: replicas.release_lease(connection, replica_id))

    async def take_over(self, replica_id: str, limit: int, *, sure_s: float | None = None) -> list[Unfinished]:
        return await self._database.write(
            lambda connection: replicas.take_over(connection, replica_id, limit, sure_s=sure_s)
        )

    async def create_conversation(self, new: NewConversation) -> CreateOutcome:
        return await self._database.write(lambda connection: conversations.create_conversation(connection, new))

    async def get_conversation(self, identity: Identity, conversation_id: str) -> Conversation:
        return await self._database.read(
            lambda connection: conversations.get_conversation(connection, identity, conversation_id), one_state=False
        )

    async def list_conversations(self, identity: Identity, which: ConversationFilter, limit: int) -> ConversationPage:
        return await self._database.read(
            lambda connection: listings.list_conversations(connection, identity, which, limit), one_state=False
        )

    async def update_conversation(self, identity: Identity, update: ConversationUpdate, now_us: int) -> Conversation:
        return await self._database.write(
            lambda connection: conversations.update_conversation(connection, identity, update, now_us)
        )

    async def delete_conversation(self, identity: Identity, conversation_id: str, etag: str) -> Busy | tuple[str, ...]:
        return await self._database.write(
            lambda connection: conversations.delete_conversation(connection, identity, conversation_id, etag)
        )

    async def list_messages(self, identity: Identity, which: MessageFilter, limit: int) -> MessagePage:
        return await self._database.read(lambda connection: listings.list_messages(connection, identity, which, limit))

    async def get_image(self, identity: Identity, image_id: str) -> ImagePart:
        return await self._database.read(
            lambda connection: images.get_image(connection, identity, image_id), one_state=False
        )

    async def key_versions(self) -> dict[KeyPlace, int]:
        return await self._database.read(provider_keys.key_versions, one_state=False)

    async def list_keys(self, after: KeyPlace = FIRST_PLACE, limit: int | None = None) -> list[StoredKey]:
        return await self._database.read(
            lambda connection: provider_keys.list_keys(connection, after, limit), one_state=False
        )

    async def set_key(self, key: StoredKey) -> StoredKey:
        return await self._database.write(lambda connection: provider_keys.set_key(connection, key))

    async def delete_key(self, place: KeyPlace) -> None:
        await self._database.write(lambda connection: provider_keys.delete_key(connection, place))

    async def replace_token(self, key: StoredKey, token: str) -> bool:
        return await self._database.write(lambda connection: provider_keys.replace_token(connection, key, token))

    async def read_status(self) -> StoredStatus:
        return await self._database.read(read_status)

    async def quota_spots(self, caps: QuotaCaps, limit: int) -> list[QuotaSpot]:
        return await self._database.read(lambda connection: quota_spots(connection, caps, limit), one_state=False)

    async def tenants(self) -> list[str]:
        return await self._database.read(erasure.tenants, one_state=False)

    async def erase_idle(self, tenant: str, before_us: int, limit: int) -> ErasedConversations:
        return await self._database.write(lambda connection: erasure.erase_idle(connection, tenant, before_us, limit))

    async def delete_usage(self, tenant: str, before_us: int, limit: int) -> int:
        return await self._database.write(
            lambda connection: erasure.delete_usage(connection, tenant, before_us, limit), durable=False
        )

    async def delete_quota_use(self, before_period: str) -> int:
        return await self._database.write(
            lambda connection: erasure.delete_quota_use(connection, before_period), durable=False
        )

    async def running_of(self, identity: Identity) -> list[str]:
        return await self._database.read(lambda connection: erasure.running_of(connection, identity), one_state=False)

    async def ended_of(self, identity: Identity) -> list[str]:
        return await self._database.read(lambda connection: erasure.ended_of(connection, identity), one_state=False)

    async def erase_conversations(self, identity: Identity, limit: int, *, running: bool) -> ErasedConversations:
        return await self._database.write(
            lambda connection: erasure.erase_conversations(connection, identity, limit, running=running)
        )

    async def forget_user(self, identity: Identity) -> tuple[int, int]:
        return await self._database.write(lambda connection: erasure.forget_user(connection, identity))

    async def rename_user(self, identity: Identity, name: str, limit: int) -> int:
        return await self._database.write(lambda connection: erasure.rename_user(connection, identity, name, limit))

    def _sweep_keys(self, now_us: int) -> None:
        """Delete expired idempotency keys in the background, at most once per `SWEEP_INTERVAL_US`."""
        # Nearly all keys come with acceptances, so that no timer is needed: without them, the table hardly grows.
        if now_us >= self._next_sweep_us and (self._sweep is None or self._sweep.done()):
            self._next_sweep_us = now_us + SWEEP_INTERVAL_US
            self._sweep = asyncio.get_running_loop().create_task(self._sweep_some(now_us))

    async def _sweep_some(self, now_us: int) -> None:
        with suppress(StorageUnavailable):
            deleted = await self._database.write(lambda each: request_ids.sweep(each, now_us), durable=False)
            if deleted == request_ids.SWEEP_ROWS:
                self._next_sweep_us = 0  # there may be more: the next acceptance deletes them
