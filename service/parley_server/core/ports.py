"""The ports of the core: what it needs, and what each implementation must guarantee. Adapters implement them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from parley_server.core.access import Credentials, Principal
from parley_server.core.model import (
    Conversation,
    Finish,
    FinishReason,
    Identity,
    ImagePart,
    Model,
    Prompt,
    Reply,
    Usage,
)
from parley_server.core.quota_values import QuotaRow, QuotaUse
from parley_server.core.rate_values import Taken
from parley_server.core.secret import Secret
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

FIRST_PLACE = KeyPlace("", "")


class Timer(Protocol):
    """A scheduled call."""

    def cancel(self) -> None:
        """Do not call; without effect if it was called."""


class Clock(Protocol):
    """Time, so that tests can move it."""

    def now_us(self) -> int:
        """Wall-clock time in microseconds since the epoch."""

    def monotonic(self) -> float:
        """Monotonic time in seconds."""

    def boottime(self) -> float:
        """Monotonic time in seconds that includes time in which the machine was suspended."""

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Run `callback` in the event loop at `when`, by `monotonic`."""

    async def sleep(self, delay_s: float) -> None:
        """Wait for `delay_s` seconds."""


class Sink(Protocol):
    """Receives a provider's output, without awaiting. Output between two flushes is merged by kind."""

    def text(self, text: str) -> None:
        """Text of the answer: whole code points."""

    def reasoning(self, text: str, signature: bytes = b"") -> None:
        """Reasoning text, and the provider's signature of it, if any."""

    def tool_call(self, index: int, call_id: str, name: str, arguments: str) -> None:
        """A piece of the tool call `index`; id and name are set on its first piece alone.

        Raises `ProviderMalformed` for an index outside of 0 to 2^31 - 1."""

    def usage(self, usage: Usage) -> None:
        """The provider's cumulative count, with a cost only if the provider states one. Implausible counts are ignored
        (see `counts`)."""

    def keep(self, origin: str, item: str) -> None:
        """A finished wire item (JSON) that the vendor requires unchanged in the next request of the same tool turn."""

    def flush(self) -> None:
        """All content of one read from the socket was pushed."""


class Provider(Protocol):
    """A model behind a wire format."""

    async def generate(self, prompt: Prompt, sink: Sink) -> Finish:
        """Ask for an answer and push it into the sink as its bytes arrive; return how the provider ended it.

        Raises a `ProviderError`. A cancel closes the provider's call, whatever its phase, before it is raised again.
        """

    async def close(self) -> None:
        """Close connections."""


class RouteSink(Sink, Protocol):
    """A sink of a reply that several models may be asked for."""

    @property
    def reply_id(self) -> str:
        """The reply's id, for log lines."""

    def asks(self, model: Model) -> None:
        """This model is asked next: from now on the reply shows it, and its usage is priced by it."""


class Prompts(Protocol):
    """Builds the prompt of one turn for any model."""

    def of(self, model: Model, *, with_kept: bool = True) -> Prompt:
        """The prompt for this model; without kept wire items if `with_kept` is False.

        Raises `UnsupportedInput` if the model cannot take the request's meaning."""

    @property
    def asked(self) -> Prompt | None:
        """The prompt that was built last, from which missing token counts are estimated; None before the first."""

    def refused_as_too_long(self, model: Model, *, limit_tokens: int | None, prompt_tokens: int | None) -> bool:
        """The provider refused this model's prompt as too long, with its limit and its count if it stated them.

        Returns whether `of` now builds a shorter prompt."""


class Route(Protocol):
    """The models that may answer a request, in order."""

    async def generate(self, prompts: Prompts, sink: RouteSink) -> Finish:
        """Ask the models in turn until one begins to answer; see `Provider.generate`. A failed try leaves nothing in
        the sink. Raises the last error."""


class Catalog(Protocol):
    """The models that a request may name. A reload of the configuration may replace them between two calls of its
    methods, except in what `current` returns."""

    def current(self) -> Catalog:
        """The catalog as it is now, which does not change. What waits between two calls of methods uses it."""

    def model(self, alias: str) -> Model:
        """The model of an alias (empty: the default). Raises `ModelNotFound`."""

    def candidates(self, alias: str, fallbacks: tuple[str, ...]) -> tuple[Model, ...]:
        """The model of an alias, then those to ask if it fails before its first token: `fallbacks`, or if there are
        none the model's own. Without duplicates, at most 8. Raises `ModelNotFound` for an unknown alias."""

    def route(self, candidates: tuple[Model, ...]) -> Route:
        """Asks these models in their order."""

    def models(self) -> list[Model]:
        """All models, the default first."""


class Authenticator(Protocol):
    """Identifies callers by their credentials."""

    def known(self, credentials: Credentials) -> Principal | None:
        """The caller, where that needs no wait; None if only `authenticate` can identify it.

        Raises `Unauthenticated`, and `InvalidRequest` for a missing or an invalid end user."""

    async def authenticate(self, credentials: Credentials) -> Principal:
        """The caller. Raises what `known` raises, and `IdentityUnavailable`."""


class RateLimiter(Protocol):
    """Counts messages in windows of `WINDOW_S`, one for each key. `take` and `look` may raise `LimitsUnavailable`."""

    async def take(self, key: str, member: str, limit: int) -> Taken:
        """Count `member`, unless the window already has `limit` others. A member in the window does not count again."""

    async def give_back(self, key: str, member: str) -> None:
        """Remove a member, if it is there. Never raises: what cannot be removed leaves the window in time."""

    async def look(self, key: str) -> int:
        """The number of members in the window."""


class Store(Protocol):
    """Conversations, messages and replies in SQL. Each method is one transaction.

    Every query filters by tenant and, if the identity has one, end user: data of others does not exist. Any method
    raises `StorageUnavailable` if the database is unavailable.
    """

    async def ping(self) -> None:
        """Check that the database answers."""

    # --- replies

    async def find_request(self, identity: Identity, request_id: str, now_us: int) -> Replayed | None:
        """What an idempotency key has started; None if the key is unknown, expired or only marked by a Cancel."""

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
        """The conversation and the branch that new messages at `position` follow.

        `new_turn`: the input has a USER message, so that nothing of the branch belongs to the same turn. The path ends
        at `context.max_messages` messages, at the first message with which it has `max_bytes` of stored parts (0: no
        limit) and the turn's USER message, and with SUMMARIZE at a summary that is older than the turn. With `whole`,
        none of these limits is used.

        With `replace`: the parent of the named message (any reply's `message_id` counts, also of one that left none),
        or without input the named USER or TOOL message itself. Raises ConversationNotFound, MessageNotFound.
        """

    async def accept(self, acceptance: Acceptance) -> AcceptOutcome:
        """Commit a request durably (power loss included), or change nothing. An acceptance that has been committed
        before, under the same reply id, is `Accepted` again. Moves the head to the last new message (to the parent of
        the answer where there is none). With `StorageUnavailable.outcome_unknown`, it may have been committed."""

    async def read_quotas(self, tenant: str, rows: Sequence[QuotaRow]) -> list[QuotaUse]:
        """The use of these rows of quotas, without those that have none."""

    async def count_running(self, tenant: str) -> int:
        """The number of replies of the tenant that are not terminal."""

    async def append_checkpoints(self, checkpoints: list[Checkpoint]) -> None:
        """Make stretches of logs durable; those whose reply is terminal, gone or of another epoch are skipped."""

    async def finalise(self, finalisation: Finalisation) -> Finalised | None:
        """End a reply, if its epoch is this one and it is not terminal: row, message, usage, and the head where it is
        still the reply's parent. Settles what it holds in quotas, and deletes its checkpoints. None: it was erased."""

    async def add_summary(self, summary: Summary, usage: Usage, *, usage_id: str, provider: str) -> bool:
        """Store a summary (in place of one of the same message) with the usage of the request that wrote it, under a
        new `usage_id`. Returns False, with nothing stored, if the conversation was erased."""

    async def roll_usage(self, limit: int) -> int:
        """Add at most `limit` rows of usage to the sums by day, the oldest first. Returns how many; 0 also while
        another replica does it."""

    async def count_unrolled(self) -> int:
        """The number of rows of usage that are not in the sums by day yet."""

    async def list_usage(self, query: UsageQuery, after: Sequence[str], limit: int) -> UsagePage:
        """Sums of usage, exact at any moment: at most `limit` rows, sorted by the columns of their groups, after the
        row with the values `after` of these columns (empty: the first). Raises `InvalidRequest` if it takes longer
        than a statement may."""

    async def request_cancel(
        self, identity: Identity, target: CancelTarget, kind: FinishReason, reason: str, now_us: int
    ) -> Reply | None:
        """Store a cancel request on a running reply (the first one is kept), and return the reply.

        A reply that has ended is returned unchanged. None if `request_id` is unknown: then a mark is kept for a minute,
        which cancels the request if it comes later. Raises ReplyNotFound, and ConversationNotFound for an unknown
        conversation.
        """

    async def get_reply(self, identity: Identity, reply_id: str) -> Reply:
        """The reply, with its message if it has ended with one. Raises ReplyNotFound."""

    async def unfinished(self, limit: int, reply_id: str = "") -> list[Unfinished]:
        """At most `limit` replies that are not terminal (only `reply_id`, if given), with the durable part of their
        logs."""

    async def unfinished_ids(self) -> list[str]:
        """The ids of all replies that are not terminal."""

    async def standings(self, reply_ids: list[str]) -> list[Standing]:
        """The states of these replies, without those that were erased."""

    # --- replicas

    async def hold_lease(self, replica_id: str, lease_s: float) -> list[Standing]:
        """Take or renew a replica's lease for `lease_s` by the database's clock, even if it had expired.

        Returns the replies that the replica owns and that are not terminal. Does not wait for other calls."""

    async def release_lease(self, replica_id: str) -> None:
        """End a replica's lease: what it still owns may be taken over at once."""

    async def take_over(self, replica_id: str, limit: int, *, sure_s: float | None = None) -> list[Unfinished]:
        """Make a replica the owner of at most `limit` replies whose owners hold no lease, each under its next epoch.

        `sure_s`: only if its own lease lasts at least this much longer by the database's clock. A process that was
        suspended before this call cannot decide whether the others were alive meanwhile."""

    # --- conversations

    async def create_conversation(self, new: NewConversation) -> CreateOutcome:
        """Create a conversation with its first messages; the head is the last of them."""

    async def get_conversation(self, identity: Identity, conversation_id: str) -> Conversation:
        """Raises ConversationNotFound."""

    async def list_conversations(self, identity: Identity, which: ConversationFilter, limit: int) -> ConversationPage:
        """At most `limit` rows and 1 MiB, but at least one row where there is one."""

    async def update_conversation(self, identity: Identity, update: ConversationUpdate, now_us: int) -> Conversation:
        """Raises ConversationNotFound, EtagMismatch, MessageNotFound (for the head)."""

    async def delete_conversation(self, identity: Identity, conversation_id: str, etag: str) -> Busy | tuple[str, ...]:
        """Erase the conversation with its messages, images, replies and checkpoints, and return the ids of its replies;
        `Busy`, and nothing erased, while one runs. Raises ConversationNotFound, EtagMismatch."""

    async def list_messages(self, identity: Identity, which: MessageFilter, limit: int) -> MessagePage:
        """At most `limit` rows and 1 MiB, but at least one row where there is one. Raises ConversationNotFound,
        MessageNotFound (for the leaf)."""

    async def get_image(self, identity: Identity, image_id: str) -> ImagePart:
        """With its bytes. Raises ImageNotFound."""


class KeyStore(Protocol):
    """API keys of providers in SQL, encrypted. Any method raises `StorageUnavailable`."""

    async def key_versions(self) -> dict[KeyPlace, int]:
        """The update time of each row, in microseconds since the epoch."""

    async def list_keys(self, after: KeyPlace = FIRST_PLACE, limit: int | None = None) -> list[StoredKey]:
        """At most `limit` rows after this place (None: all), by provider and tenant."""

    async def set_key(self, key: StoredKey) -> StoredKey:
        """Store a row in place of any former one, and return it. Its update time is later than that of the former
        one, whatever the clocks of the replicas show."""

    async def delete_key(self, place: KeyPlace) -> None:
        """Delete the row, if there is one."""

    async def replace_token(self, key: StoredKey, token: str) -> bool:
        """Store the same key under another encryption; returns False, with no change, if the row has changed."""


class KeyCipher(Protocol):
    """Encrypts API keys of providers."""

    def encrypt(self, place: KeyPlace, key: Secret) -> str:
        """A token from which only `decrypt` for the same place returns the key."""

    def decrypt(self, place: KeyPlace, token: str) -> Secret:
        """The key. Raises ValueError for a token of an unknown encryption key, of another place, or of another form."""

    def rotate(self, token: str) -> str:
        """The same content under the newest encryption key. Raises ValueError."""


class KeyLookup(Protocol):
    """Stored API keys of providers, in memory."""

    def find(self, provider: str, tenant: str) -> Secret | None:
        """The key that is stored for this tenant, or with an empty one for all; None if there is none.

        Raises `ProviderUnauthenticated` if it cannot be decrypted: another key could belong to another account."""


class KeyRules(Protocol):
    """Which API keys providers accept."""

    def check_key(self, place: KeyPlace, key: Secret) -> None:
        """Raises `ProviderNotFound`, `NotConfigured` if the provider does not use such a key, and `InvalidRequest` for
        a key that no request can contain."""

    async def verify_key(self, provider: str, key: Secret) -> None:
        """Ask the provider whether it accepts the key, for at most five seconds.

        Raises `InvalidRequest` if it refuses the key, and `ProviderUnavailable` for any other answer."""


class StatusStore(Protocol):
    """Shows operators what the database holds. Any method raises `StorageUnavailable`."""

    async def read_status(self) -> StoredStatus:
        """The leases of replicas and the running replies, by the database's clock."""

    async def quota_spots(self, caps: QuotaCaps, limit: int) -> list[QuotaSpot]:
        """The quotas of which at least half is used or held: at most `limit`, the fullest first."""


class ErasureStore(Protocol):
    """Erases rows for good, in parts. Any method raises `StorageUnavailable`."""

    async def tenants(self) -> list[str]:
        """The tenants that have conversations or usage."""

    async def erase_idle(self, tenant: str, before_us: int, limit: int) -> ErasedConversations:
        """Erase at most `limit` conversations of a tenant without activity since this time, and with no running
        reply."""

    async def delete_usage(self, tenant: str, before_us: int, limit: int) -> int:
        """Delete at most `limit` rows of usage that are part of the sums by day; returns how many."""

    async def delete_quota_use(self, before_period: str) -> int:
        """Delete what was used of quotas in periods before this day; returns how many rows."""

    async def running_of(self, identity: Identity) -> list[str]:
        """The ids of the running replies of an end user."""

    async def ended_of(self, identity: Identity) -> list[str]:
        """The ids of all ended replies in the conversations of an end user."""

    async def erase_conversations(self, identity: Identity, limit: int, *, running: bool) -> ErasedConversations:
        """Erase at most `limit` conversations of an end user; those with a running reply only if `running`."""

    async def forget_user(self, identity: Identity) -> tuple[int, int]:
        """Delete the idempotency keys and the quota rows of an end user; returns how many of each."""

    async def rename_user(self, identity: Identity, name: str, limit: int) -> int:
        """Put `name` in place of an end user in at most `limit` rows of usage; returns how many."""
