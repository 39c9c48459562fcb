"""What the engine tells about itself while it works. Implementations count and log; they never raise and never wait."""

from __future__ import annotations

from typing import Protocol

from parley_server.core.model import Reply
from parley_server.errors import Reason


class Observer(Protocol):
    """Is told what happens to replies and readers. Called in the event loop, once per event, never per token."""

    def reply_started(self) -> None:
        """A reply has been accepted and its task runs. Every start is followed by one `reply_ended`."""

    def reply_ended(self, reply: Reply, *, overhead_s: float, text_length: int) -> None:
        """A reply is terminal and stored. `overhead_s` is the engine's own time, without the waits for the provider;
        `text_length` is in characters."""

    def reader_joined(self) -> None:
        """Somebody follows a log. Every join is followed by one `reader_left`."""

    def reader_left(self) -> None:
        """Somebody has stopped following a log."""

    def first_token(self, seconds: float, model: str) -> None:
        """The first content of a reply came this long after its acceptance."""

    def refused(self, reason: Reason) -> None:
        """A request was refused before it left a trace."""

    def fenced(self, fenced: bool) -> None:
        """This replica's lease has run out (or is held again): its replies show no text meanwhile."""

    def reply_taken_over(self) -> None:
        """A reply of a dead replica was ended by this one."""


class CallObserver(Protocol):
    """Is told what happens at the edge."""

    def call_ended(
        self,
        *,
        method: str,
        code: str,
        duration_s: float,
        reason: str = "",
        tenant: str = "",
        end_user: str = "",
        call_id: str = "",
        reply_id: str = "",
        traceparent: str = "",
    ) -> None:
        """A call has its status: the full method name, the status code's name ("OK"), the error's reason or nothing."""

    def resumed(self) -> None:
        """A reader came back to a reply with ResumeReply."""

    def went_away(self) -> None:
        """A reader was told to go to another replica."""


class AttemptObserver(Protocol):
    """Is told what happens at the providers."""

    def provider_attempt(self, provider: str, outcome: str) -> None:
        """One request to a provider is over: `outcome` is "OK" or the name of the error's reason."""

    def provider_oddity(self, provider: str, kind: str) -> None:
        """Something in a provider's answer was left out: "after_finish" (what followed a complete answer), "count" (a
        count that cannot be true), "content" (of a kind that is not kept), "tool_call" (without a name)."""


class LoopLoad(Protocol):
    """How busy the event loop is."""

    @property
    def utilisation(self) -> float:
        """Share of the last moments in which the loop's thread was on the CPU, from 0 to 1."""

    @property
    def overloaded(self) -> bool:
        """Whether it has been late for so long that new replies would harm those that run."""
