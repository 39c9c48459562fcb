"""The domain model, as immutable values. Times are microseconds since the epoch, money is billionths of a US dollar.

Enum members are named as in the public contract, without the prefix. Nothing here does I/O.
"""

from __future__ import annotations

import enum

import msgspec

from parley_server.errors import ParleyError, Reason


class Role(enum.StrEnum):
    """Who wrote a message."""

    USER = "USER"
    ASSISTANT = "ASSISTANT"
    TOOL = "TOOL"


class State(enum.StrEnum):
    """The state of a reply. COMPLETED, CANCELLED and FAILED are final."""

    PENDING = "PENDING"
    STREAMING = "STREAMING"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"

    @property
    def terminal(self) -> bool:
        """Whether the state is final."""
        return self not in ACTIVE_STATES


ACTIVE_STATES = (State.PENDING, State.STREAMING)


class FinishReason(enum.StrEnum):
    """Why a COMPLETED or CANCELLED reply ended."""

    STOP = "STOP"
    MAX_TOKENS = "MAX_TOKENS"
    TOOL_CALLS = "TOOL_CALLS"
    CONTENT_FILTER = "CONTENT_FILTER"
    CANCELLED = "CANCELLED"
    ORPHANED = "ORPHANED"
    INTERRUPTED = "INTERRUPTED"
    TIME_LIMIT = "TIME_LIMIT"
    OTHER = "OTHER"


class Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An immutable value. Its JSON omits defaults, so that new fields do not change the encoding of older values."""


class Identity(Value, frozen=True, kw_only=True):
    """The caller: a tenant, and its end user. Without an end user, the caller sees all data of the tenant."""

    tenant: str
    end_user: str = ""

    def owns(self, tenant: str, end_user: str) -> bool:
        """Whether this caller may see data of `tenant` and `end_user`."""
        return self.tenant == tenant and (not self.end_user or self.end_user == end_user)


class TextPart(Value, frozen=True, kw_only=True, tag="text"):
    """Plain text."""

    text: str


class ImagePart(Value, frozen=True, kw_only=True, tag="image"):
    """An image: `data` in a request and in a prompt; otherwise the `image_id` of a stored image, or an https `url`."""

    mime_type: str = ""
    data: bytes = b""
    url: str = ""
    image_id: str = ""
    size_bytes: int = 0


class ToolCallPart(Value, frozen=True, kw_only=True, tag="tool_call"):
    """A function call that the model requested; `arguments` is JSON."""

    id: str
    name: str
    arguments: str = ""


class ToolResultPart(Value, frozen=True, kw_only=True, tag="tool_result"):
    """The result of a tool call, from the caller."""

    tool_call_id: str
    content: str = ""


class ReasoningPart(Value, frozen=True, kw_only=True, tag="reasoning"):
    """Reasoning text of the model, with the provider's signature of it."""

    text: str = ""
    signature: bytes = b""


Part = TextPart | ImagePart | ToolCallPart | ToolResultPart | ReasoningPart


class Message(Value, frozen=True, kw_only=True):
    """A message of a conversation. `failed` marks the partial text of a failed reply; prompts omit it."""

    id: str = ""
    role: Role
    parts: tuple[Part, ...] = ()
    parent_id: str = ""
    reply_id: str = ""
    partial: bool = False
    failed: bool = False
    create_time_us: int = 0


class Overflow(enum.StrEnum):
    """What happens to messages that do not fit the token budget of a prompt."""

    DROP_OLDEST = "DROP_OLDEST"
    SUMMARIZE = "SUMMARIZE"

    @classmethod
    def _missing_(cls, value: object) -> Overflow:  # noqa: ARG003 - a stored value of a newer release
        return cls.DROP_OLDEST


class ContextPolicy(Value, frozen=True, kw_only=True):
    """How much of the history a prompt contains.

    `max_messages` 0: no limit. `max_tokens` 0: what the model's context holds. `reminder` is system text that is
    repeated each `reminder_interval` messages; without one of the two there is none."""

    max_messages: int = 0
    max_tokens: int = 0
    overflow: Overflow = Overflow.DROP_OLDEST
    reminder: str = ""
    reminder_interval: int = 0


class Conversation(Value, frozen=True, kw_only=True):
    """A tree of messages of one end user. Prompts and listings use the branch that ends in the head by default."""

    id: str = ""
    tenant: str = ""
    end_user: str = ""
    title: str = ""
    system: tuple[str, ...] = ()
    post_system: str = ""
    model: str = ""
    context: ContextPolicy = ContextPolicy()
    labels: dict[str, str] = {}
    head_message_id: str = ""
    active_reply_id: str = ""
    create_time_us: int = 0
    update_time_us: int = 0
    etag: str = ""


class Usage(Value, frozen=True, kw_only=True):
    """Tokens and cost of one reply. Prompt counts include cached and cache-write tokens; completion counts include
    reasoning tokens.

    `prompt_bytes` is the UTF-8 size of the prompt's content, from which later prompts of the conversation are estimated
    (0: unknown)."""

    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    cache_write_prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano_usd: int | None = None
    estimated: bool = False
    prompt_bytes: int = 0


_READABLE_AS = {Reason.PROVIDER_CONTEXT_TOO_LARGE: Reason.PROVIDER_REJECTED}
"""Maps reasons that older releases cannot read to the reason stored in their place."""


class ReplyError(Value, frozen=True, kw_only=True):
    """Why a reply failed, as stored and shown.

    Every release can read `reason`. Where callers get a newer reason, `shown` holds its name; a release that does not
    know that name uses `reason`.
    """

    reason: Reason
    message: str
    retryable: bool = False
    retry_after_s: float | None = None
    metadata: dict[str, str] = {}
    shown: str = ""

    @classmethod
    def of(cls, error: ParleyError) -> ReplyError:
        """The stored form of an error."""
        readable = _READABLE_AS.get(error.reason)
        return cls(
            reason=readable or error.reason,
            message=error.message,
            retryable=error.retryable,
            retry_after_s=error.retry_after_s,
            metadata=error.metadata,
            shown=error.reason.value if readable else "",
        )

    @property
    def shown_reason(self) -> Reason:
        """The reason that callers, logs and metrics get."""
        return Reason.__members__.get(self.shown, self.reason)


class Reply(Value, frozen=True, kw_only=True):
    """One generation in one conversation, and the message that it produces.

    `message_id` is assigned at acceptance. `message` holds the answer so far; it stays None if the reply ends without
    text or a complete tool call. `parent_message_id` is the message that the answer follows (empty: the root).
    `owner` is the id of the replica that generates the reply, or that took it over (empty in standalone mode).
    """

    id: str
    tenant: str
    end_user: str = ""
    conversation_id: str
    request_id: str = ""
    message_id: str
    parent_message_id: str = ""
    input_message_ids: tuple[str, ...] = ()
    epoch: int = 1
    owner: str = ""
    state: State = State.PENDING
    message: Message | None = None
    finish_reason: FinishReason | None = None
    provider_reason: str = ""
    usage: Usage | None = None
    error: ReplyError | None = None
    requested_model: str = ""
    model: str = ""
    provider: str = ""
    last_sequence: int = 0
    cancel_reason: str = ""
    create_time_us: int = 0
    first_token_time_us: int = 0
    end_time_us: int = 0
    labels: dict[str, str] = {}
    ignored_settings: tuple[str, ...] = ()


class Sampling(Value, frozen=True, kw_only=True):
    """Sampling settings. None: the default of the model."""

    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    reasoning_effort: str = ""


class Tool(Value, frozen=True, kw_only=True):
    """A function that the model may call; `parameters` is a JSON Schema."""

    name: str
    description: str = ""
    parameters: str = ""


class PriceTier(Value, frozen=True, kw_only=True):
    """The prices of a whole request whose prompt has more than `above` tokens. None: the same as `prompt`."""

    above: int
    prompt: int
    cached_prompt: int | None = None
    cache_write: int | None = None
    completion: int


class Prices(Value, frozen=True, kw_only=True):
    """Prices of a model in billionths of a US dollar per million tokens. None: unknown; for `cached_prompt` and
    `cache_write`: the same as `prompt`. The last of `tiers` that a prompt exceeds replaces the other prices."""

    prompt: int | None = None
    cached_prompt: int | None = None
    cache_write: int | None = None
    completion: int | None = None
    tiers: tuple[PriceTier, ...] = ()


class Model(Value, frozen=True, kw_only=True):
    """An entry of the model catalog. Counts are tokens; 0 means unknown. An ability that is not known counts as there.

    max_output_tokens: the upper bound for a request. output_tokens: sent if a request sets none (0: nothing is sent).
    image_urls: the model takes images by URL. sampling: it takes temperature, top_p and seed. prefill: the prompt may
    end with an assistant message. efforts: its levels of reasoning effort, lowest first (empty: not known).
    reasoning_summary: request a summary of the reasoning. thinking: the vendor's thinking mode, such as "adaptive".
    cache_min: the fewest tokens that the vendor caches. api: the vendor's API, "chat" or "responses".
    extra_body: fields to add to each request, as a JSON object (empty: none). seed: it takes a seed. max_stop: the most
    stop texts of a request (None: not limited). dotted_names: names of tools may have a ".".
    """

    alias: str
    provider: str
    name: str
    context_tokens: int = 0
    max_output_tokens: int = 0
    output_tokens: int = 0
    images: bool = False
    image_urls: bool = True
    tools: bool = True
    json_schema: bool = True
    prefill: bool = True
    sampling: bool = True
    seed: bool = True
    max_stop: int | None = None
    dotted_names: bool = True
    reasoning: bool = False
    efforts: tuple[str, ...] = ()
    reasoning_summary: bool = False
    thinking: str = ""
    cache_min: int = 0
    api: str = "chat"
    extra_body: str = ""
    retire_time_us: int = 0
    prices: Prices = Prices()
    fallback: tuple[str, ...] = ()
    is_default: bool = False


class Kept(Value, frozen=True, kw_only=True):
    """An assistant message as the vendor sent it, to be sent back unchanged within the same tool turn.

    `origin` identifies endpoint, model and account, because vendors refuse items of others. Each of `items` is the JSON
    of one wire item."""

    origin: str
    items: tuple[str, ...]


class PromptMessage(Value, frozen=True, kw_only=True):
    """One message of a prompt: role "system", "user", "assistant" or "tool", images with their bytes.

    `kept` stands in place of the parts if the endpoint that is asked has the same origin. `cache_mark`: later turns
    start with the same prompt up to this message's end, so that a vendor that takes marks should cache it."""

    role: str
    parts: tuple[Part, ...]
    kept: Kept | None = None
    cache_mark: bool = False


class Prompt(Value, frozen=True, kw_only=True):
    """The input of one provider request, with only what its model takes. `sampling.max_output_tokens` is already
    limited to the model's maximum.

    `cache_key` is the same for all prompts of a conversation; it does not reveal the conversation id.
    `estimated_tokens` is the estimate of the whole prompt that is rarely too low, and `likely_tokens` the mean estimate
    (0: none was made). `text_bytes` is the UTF-8 size of its text, with tools and schema (0: unknown, or it has images,
    whose tokens do not follow from their size)."""

    model: Model
    messages: tuple[PromptMessage, ...]
    sampling: Sampling = Sampling()
    tools: tuple[Tool, ...] = ()
    tool_choice: str = ""
    json_schema: str = ""
    traceparent: str = ""
    cache_key: str = ""
    tenant: str = ""
    estimated_tokens: int = 0
    likely_tokens: int = 0
    text_bytes: int = 0


class Finish(Value, frozen=True, kw_only=True):
    """How a provider ended its answer: the reason, and the provider's own name for it.

    response_id, response_model: the provider's id of the answer, and its name of the model that has answered, which may
    be more exact than the name that was asked for (empty: the provider states none)."""

    reason: FinishReason
    provider_reason: str = ""
    response_id: str = ""
    response_model: str = ""
