"""Ports for metrics and logs of the engine. Implementations must neither raise nor block."""

from __future__ import annotations

from typing import Protocol

from parley_server.core.model import Finish, Model, Part, Reply, Usage, Value
from parley_server.errors import Reason


class Observer(Protocol):
    """Receives events of replies and readers. Called in the event loop, once per event, never per token."""

    def reply_started(self) -> None:
        """A reply was accepted and its task started. Exactly one `reply_ended` follows."""

    def reply_ended(self, reply: Reply, *, overhead_s: float, text_length: int) -> None:
        """A reply is terminal and stored. `overhead_s` is the time spent in the engine, without waits for the provider;
        `text_length` is in characters."""

    def items_kept(self, outcome: str) -> None:
        """A reply has wire items that its provider requires back in the next request of the tool turn. `outcome`:
        "stored", or "too_large" (dropped: the tool turn goes on without them)."""

    def reader_joined(self) -> None:
        """A reader started to read a log. Exactly one `reader_left` follows."""

    def reader_left(self) -> None:
        """A reader stopped reading a log."""

    def first_token(self, seconds: float, model: str) -> None:
        """The first content of a reply arrived this many seconds after acceptance."""

    def refused(self, reason: Reason) -> None:
        """A request was refused before anything was stored."""

    def quota_exceeded(self, limit: str) -> None:
        """A request was refused for a quota, whose name `limit` is one of eight."""

    def message_counted(self, outcome: str) -> None:
        """A message was counted against `messages_per_minute`. `outcome`: "taken", "local" (counted on this replica
        alone, because Redis is unavailable), "refused", or "error" (not counted, because Redis is unavailable)."""

    def fenced(self, fenced: bool) -> None:
        """The lease of this replica expired (or is held again). Without a lease, its replies show no new text."""

    def prompt_counted(self, ratio: float) -> None:
        """A provider has counted a prompt; `ratio` is the estimate divided by the count."""

    def summarized(self, outcome: str) -> None:
        """A summary of a conversation ended. `outcome`: "stored", "skipped" (too many run at once), "failed",
        "timeout", "cancelled" or "erased" (the conversation is gone)."""

    def usage_unrolled(self, count: int) -> None:
        """So many rows of usage are not in the sums by day yet."""

    def reply_taken_over(self) -> None:
        """This replica ended a reply of a dead replica."""

    def conversations_erased(self, cause: str, count: int) -> None:
        """So many conversations were erased. `cause`: "retention" (they were too old) or "call"."""


class CallEnded(Value, frozen=True, kw_only=True):
    """A finished RPC: the full name of its method, the name of its status code, and the reason of its error, if any.

    Who called, and what, is empty where the call ended before that was known. `credential`: see `Principal`. `cause`:
    why the credential was refused. `target_provider` and `target_tenant`: whose key a call of Admin was about."""

    method: str
    code: str
    duration_s: float
    reason: str = ""
    tenant: str = ""
    end_user: str = ""
    credential: str = ""
    cause: str = ""
    call_id: str = ""
    reply_id: str = ""
    traceparent: str = ""
    target_provider: str = ""
    target_tenant: str = ""


class CallObserver(Protocol):
    """Receives events of RPCs."""

    def authenticated(self, seconds: float) -> None:
        """A caller was identified, or refused, after this time."""

    def auth_failed(self, cause: str) -> None:
        """A credential was refused. `cause` is one of a few fixed words."""

    def call_ended(self, call: CallEnded) -> None:
        """A call has ended with its status."""

    def resumed(self) -> None:
        """A client resumed a reply with ResumeReply."""

    def went_away(self) -> None:
        """A client was sent the request to reconnect to another replica."""


class KeySetObserver(Protocol):
    """Receives events of the public keys of issuers."""

    def jwks_refreshed(self, outcome: str) -> None:
        """A set of keys was read from its URL or file. `outcome` is "ok" or "failed"."""


class Target(Value, frozen=True, kw_only=True):
    """Who is asked: the provider's name in the GenAI conventions of OpenTelemetry, such as "openai" or "gcp.gemini",
    and the address of its server (empty and 0: there is none)."""

    system: str = ""
    host: str = ""
    port: int = 0


NO_TARGET = Target()


class AttemptEnded(Value, frozen=True, kw_only=True):
    """A request to a provider that has ended. `outcome` is "OK", "CANCELLED" or the name of the error's reason.

    first_content_s: from the start of the request to the first text, reasoning or tool call (None: none arrived in
    time). usage: the provider's own count, if it sent one. finish: of an answer that is complete. answer: what arrived;
    set only where the attempt's span asks for it."""

    model: Model
    target: Target
    outcome: str
    duration_s: float
    first_content_s: float | None = None
    usage: Usage | None = None
    finish: Finish | None = None
    answer: tuple[Part, ...] = ()


class AttemptObserver(Protocol):
    """Receives events of provider requests."""

    def provider_attempt(self, attempt: AttemptEnded) -> None:
        """A request to a provider has ended."""

    def provider_retried(self, provider: str, reason: str) -> None:
        """A model is about to be asked again for the same reply. `reason` is the class of the failure (`Failure`)."""

    def failed_over(self, source: str, target: str, reason: str) -> None:
        """A reply asks the model `target` instead of `source` (aliases). `reason` is the class of the failure, or
        "breaker" or "cool_down" if `source` was not asked."""

    def breaker_changed(self, provider: str, model: str, *, is_open: bool) -> None:
        """The circuit breaker of a model (the vendor's name) has opened or closed."""

    def provider_oddity(self, provider: str, kind: str) -> None:
        """Part of a provider's answer was dropped. `kind`: "after_finish" (data after a complete answer), "count" (an
        implausible count), "content" (unsupported content), "tool_call" (a tool call without a name)."""


class LoopLoad(Protocol):
    """The load of the event loop."""

    @property
    def utilisation(self) -> float:
        """The recent CPU share of the event loop's thread, from 0 to 1."""

    @property
    def overloaded(self) -> bool:
        """Whether the loop has been late for so long that new replies would slow down running ones."""


class KeyObserver(Protocol):
    """Receives events of stored API keys."""

    def provider_keys_unreadable(self, count: int) -> None:
        """So many stored keys cannot be decrypted."""
