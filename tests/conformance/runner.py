"""Plays one case: sends commands to a player, acts on the servers, and compares. Each step is a method."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable
from typing import Any

from parley.v1 import chat_pb2

from tests.conformance.cases import Case, Mapped
from tests.conformance.expect import Names, check_error, check_events, check_stream, difference
from tests.conformance.players import LAST, LIMIT_S, Player, short
from tests.conformance.wire import Break
from tests.conformance.world import World, upstream_script
from tests.processes import until

BACKOFF = {"first_s": 0.05, "max_s": 0.2, "max_elapsed_s": 20.0}
STATE_S = 5.0
RSS_SLACK = 128 * 1024 * 1024  # the start of a virtual machine; `heap_bytes` has the exact bound
STREAMS = ("stream", "resume")
WITHOUT_CLIENT = ("client", "close_client", "stats", "ways", "next", "abandon", "stop")

_numbers = itertools.count(1)


class Run:
    """One case with one player. Names that a case binds are valid for the case, or for one round of a loop."""

    def __init__(self, case: Case, player: Player, world: World) -> None:
        self._case = case
        self._player = player
        self._world = world
        self._number = next(_numbers)
        self._names = Names(
            server=world.servers[0].address, wire=world.wire.address, run=f"{os.getpid()}-{self._number}"
        )
        self._ids: dict[str, str] = {}
        self._ops: dict[str, str] = {}
        self._serial = itertools.count(1)
        self._clients: list[str] = []
        self._marks = world.marks()
        self._requests_before = len(world.upstream.requests)
        self._remembered: dict[str, dict[str, Any]] = {}
        self._checked: set[str] = set()

    async def play(self) -> None:
        """Run all steps. Raises AssertionError with the place in the file at the first difference."""
        for name, fields in self._case.clients.items():
            await self._open(name, fields)
        for step in self._case.steps:
            await self._step(step)
        for name in self._clients:
            await self._call("close_client", {"name": name})
        for name, op in self._ops.items():
            events = self._player.events[name]
            if op in STREAMS and name not in self._checked and events and events[-1]["event"] in LAST:
                check_stream(events)
        for name in self._ops:
            self._player.events.pop(name, None)

    async def _step(self, step: Mapped) -> None:
        verb = "do" if "do" in step else next(iter(step))
        if verb not in STEPS:
            verb = next(key for key in step if key in STEPS)
        try:
            await STEPS[verb](self, step)
        except AssertionError as failure:
            if str(failure).startswith("at "):
                raise
            raise AssertionError(f"at {step.where}: {failure}") from failure

    # --- commands

    async def _open(self, name: str, fields: dict[str, Any]) -> None:
        if "of" in fields:
            target = {"of": f"{self._number}.{fields.pop('of')}"}
        else:
            target = {"address": self._names["wire" if self._case.wire else "server"], "backoff": BACKOFF}
        own = f"{self._number}.{name}"
        await self._call("client", {"name": own, **target, **self._names.fill(fields)})
        self._clients.append(own)

    async def _call(self, op: str, fields: dict[str, Any]) -> list[dict[str, Any]]:
        """Send a command and wait for its last event; returns its events."""
        name = await self._send(op, fields)
        await self._player.until(name)
        return self._player.events[name]

    async def _send(self, op: str, fields: dict[str, Any]) -> str:
        name = f"{self._number}.{next(self._serial)}"
        self._ops[name] = op
        await self._player.send({"id": name, "op": op, **fields})
        return name

    async def do(self, step: Mapped) -> None:
        op, fields = step["do"], self._names.fill(dict(step.get("with") or {}))
        if op == "client":
            await self._open(fields.pop("name"), fields)
            return
        if op == "close_client":
            own = f"{self._number}.{fields['name']}"
            self._clients.remove(own)
            await self._call(op, {"name": own})
            return
        if op not in WITHOUT_CLIENT:
            fields["client"] = f"{self._number}.{fields.get('client', 'c')}"
        if "stream" in fields:
            fields["stream"] = self._ids[fields["stream"]]
        name = await self._send(op, fields)
        if "as" in step:
            self._ids[self._names.fill(step["as"])] = name
        if "expect" in step:
            await self._compare(name, step["expect"])
        elif op not in STREAMS and "as" not in step:
            await self._player.until(name)
            last = self._player.events[name][-1]
            assert last["event"] != "error", f"{op}: {short(last)}"

    async def expect(self, step: Mapped) -> None:
        await self._compare(self._ids[self._names.fill(step["of"])], step["expect"])

    async def _compare(self, name: str, expected: list[Any]) -> None:
        await self._player.until(name)
        events = self._player.events[name]
        check_events(expected, events, self._names)
        if self._ops[name] in STREAMS:
            self._checked.add(name)
            check_stream(events)
        elif events[-1]["event"] == "error":
            check_error({key: value for key, value in events[-1].items() if key not in ("id", "event")})

    async def wait(self, step: Mapped) -> None:
        await self._player.until(
            self._ids[self._names.fill(step["of"])], kind=step["await"], count=step.get("count", 1)
        )

    async def first_event(self, step: Mapped) -> None:
        """Check the first event that a command has caused so far."""
        events = self._player.events[self._ids[self._names.fill(step["of"])]]
        check_events([step["first_event"]], events[:1], self._names)

    async def quiet(self, step: Mapped) -> None:
        """Check that a command causes no event for these seconds."""
        events = self._player.events[self._ids[self._names.fill(step["of"])]]
        before = len(events)
        await asyncio.sleep(step["quiet"])
        assert len(events) == before, f"it is not quiet: {short(events[before:])}"

    # --- actions on the connections and the servers

    async def cut(self, step: Mapped) -> None:
        fields = {key: value for key, value in step.items() if key != "break"}
        self._world.wire.breaks.append(Break(how=step["break"], **fields))

    async def wire(self, step: Mapped) -> None:
        wire, what = self._world.wire, step["wire"]
        if what == "refuse":
            await wire.refuse()
        elif what == "listen":
            await wire.listen()
        elif what == "release":
            await wire.release()
        elif what == "switch":
            wire.target_port = self._world.servers[step["to"]].port
        else:
            wire.break_all(what, for_s=step.get("for_s", 0.0))

    async def server(self, step: Mapped) -> None:
        await self._world.act(step["server"], step.get("replica", 0))

    async def storage(self, step: Mapped) -> None:
        await self._world.storage(step["storage"])

    async def identity(self, step: Mapped) -> None:
        self._world.identity(step["identity"])

    async def upstream(self, step: Mapped) -> None:
        self._world.upstream.reply_next(upstream_script(step["upstream"]))

    async def rewrite(self, step: Mapped) -> None:
        self._world.wire.rewrite = REWRITES[step["rewrite"]]()

    async def pause(self, step: Mapped) -> None:
        await asyncio.sleep(step["pause"])

    async def let(self, step: Mapped) -> None:
        self._names.update(self._names.fill(step["let"]))

    # --- checks of the servers and of the player

    async def calls(self, step: Mapped) -> None:
        """Wait until the server's log lines of these methods since the start of the case are these, in any order."""
        wanted = step["calls"]
        methods = {each["method"] for each in wanted}
        began_s = time.monotonic()
        logged: list[dict[str, Any]] = []

        async def complete() -> bool:
            nonlocal logged
            logged = [each for each in self._world.calls(self._marks) if each["method"] in methods]
            left = list(logged)
            for each in wanted:
                match = next((line for line in left if not difference(each, line, Names(self._names))), None)
                if match is None:
                    return False
                left.remove(match)
            return not left

        limit_s = step.get("within_s", STATE_S)
        try:
            await until(complete, "the calls", limit_s=limit_s)
        except AssertionError:
            problem = f"after {time.monotonic() - began_s:.2f} s the server has logged other calls than expected"
            raise AssertionError(f"{problem}: {short(logged)} and not {short(wanted)}") from None

    async def stored(self, step: Mapped) -> None:
        reply_id = self._names.fill(step.get("reply", "$reply"))
        found: dict[str, Any] = {}

        async def ended() -> bool:
            found.update(await self._world.stored(reply_id))
            return found["state"] in ("COMPLETED", "CANCELLED", "FAILED") or not difference(
                step["stored"], found, Names(self._names), "stored"
            )

        await until(ended, f"what is stored of {reply_id}", limit_s=STATE_S)
        problem = difference(step["stored"], found, self._names, "stored")
        assert not problem, problem

    async def provider_calls(self, step: Mapped) -> None:
        count = len(self._world.upstream.requests) - self._requests_before
        assert count == step["provider_calls"], f"the provider was asked {count} times"

    async def received(self, step: Mapped) -> None:
        """Check the bodies of the requests to the provider since the start of the case."""
        bodies = [request.json for request in self._world.upstream.requests[self._requests_before :]]
        problem = difference(step["received"], bodies, self._names, "received")
        assert not problem, problem

    async def _stats(self) -> dict[str, Any]:
        (event,) = await self._call("stats", {})
        assert event["event"] == "result", short(event)
        value: dict[str, Any] = event["value"]
        assert set(value) == {"rss_bytes", "heap_bytes", "open"}, short(value)
        return value

    async def remember(self, step: Mapped) -> None:
        self._remembered[step["remember"]] = await self._stats()

    async def nothing_left(self, step: Mapped) -> None:
        """Wait until no more resources are open than when they were remembered."""
        before = self._remembered[step["since"]]["open"]
        now: dict[str, int] = {}

        async def closed() -> bool:
            nonlocal now
            now = (await self._stats())["open"]
            return all(count <= before.get(kind, 0) for kind, count in now.items())

        try:
            await until(closed, "nothing is left", limit_s=step["nothing_left"])
        except AssertionError:
            raise AssertionError(f"something is left behind: {now}, before: {before}") from None

    async def memory(self, step: Mapped) -> None:
        before, now = self._remembered[step["since"]], await self._stats()
        limit = step["memory"]
        for what, bound in (("heap_bytes", limit), ("rss_bytes", limit + RSS_SLACK)):
            grown = now[what] - before[what]
            assert grown <= bound, f"{what} has grown by {grown}, more than {bound}"

    # --- loops

    async def each_way(self, step: Mapped) -> None:
        """Run the steps for each way of leaving a stream in this language."""
        (event,) = await self._call("ways", {})
        assert "break" in event["value"], f"every player knows break: {short(event)}"
        for way in event["value"]:
            await self._round(step, {step["each_way"]: way})

    async def times(self, step: Mapped) -> None:
        for number in range(step["times"]):
            await self._round(step, {"number": number})

    async def _round(self, step: Mapped, names: dict[str, Any]) -> None:
        outer = self._names, self._marks, self._requests_before
        self._names, self._marks = Names({**self._names, **names}), self._world.marks()
        try:
            for inner in step["steps"]:
                await self._step(inner)
        except AssertionError as failure:
            raise AssertionError(f"{failure}\n  with {names}") from failure
        self._names, self._marks, self._requests_before = outer


Step = Callable[[Run, Mapped], Any]
STEPS: dict[str, Step] = {
    "do": Run.do,
    "expect": Run.expect,
    "await": Run.wait,
    "quiet": Run.quiet,
    "first_event": Run.first_event,
    "break": Run.cut,
    "wire": Run.wire,
    "server": Run.server,
    "storage": Run.storage,
    "identity": Run.identity,
    "upstream": Run.upstream,
    "rewrite": Run.rewrite,
    "calls": Run.calls,
    "stored": Run.stored,
    "provider_calls": Run.provider_calls,
    "received": Run.received,
    "remember": Run.remember,
    "nothing_left": Run.nothing_left,
    "memory": Run.memory,
    "each_way": Run.each_way,
    "times": Run.times,
    "pause": Run.pause,
    "let": Run.let,
}


# --- chunks of a newer server

UNKNOWN_FIELD = 99


def _varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out, number = out + bytes((number & 0x7F | 0x80,)), number >> 7
    return out + bytes((number,))


def _unknown(content: bytes = b"from a newer server") -> bytes:
    return _varint(UNKNOWN_FIELD << 3 | 2) + _varint(len(content)) + content


def _with_unknown_field(chunk: chat_pb2.TokenChunk) -> chat_pb2.TokenChunk:
    return chat_pb2.TokenChunk.FromString(chunk.SerializeToString() + _unknown())


def _unknown_notices() -> Callable[[chat_pb2.TokenChunk], list[chat_pb2.TokenChunk]]:
    """Insert a notice of an unknown kind before each chunk, and add an unknown field to each chunk."""
    position = 0

    def rewrite(chunk: chat_pb2.TokenChunk) -> list[chat_pb2.TokenChunk]:
        nonlocal position
        notice = _with_unknown_field(chat_pb2.TokenChunk(sequence=position, reply_id=chunk.reply_id))
        position = chunk.sequence
        known = _with_unknown_field(chunk)
        return [known] if chunk.WhichOneof("event") == "accepted" else [notice, known]

    return rewrite


def _unknown_entry() -> Callable[[chat_pb2.TokenChunk], list[chat_pb2.TokenChunk]]:
    """Replace the second text of the reply, by its sequence, by an entry of an unknown kind."""
    seen: list[int] = []

    def rewrite(chunk: chat_pb2.TokenChunk) -> list[chat_pb2.TokenChunk]:
        if chunk.WhichOneof("event") == "text":
            seen.append(chunk.sequence)
            if len(seen) > 1 and chunk.sequence == seen[1]:
                return [_with_unknown_field(chat_pb2.TokenChunk(sequence=chunk.sequence))]
        return [chunk]

    return rewrite


def _unknown_ending() -> Callable[[chat_pb2.TokenChunk], list[chat_pb2.TokenChunk]]:
    """Replace the reason of the end by a number that the contract does not have."""

    def rewrite(chunk: chat_pb2.TokenChunk) -> list[chat_pb2.TokenChunk]:
        if chunk.HasField("finished"):
            chunk.finished.reason = 77  # type: ignore[assignment]  # a number of a newer contract
        if chunk.HasField("failed"):
            chunk.failed.error.reason = 77  # type: ignore[assignment]  # as above
        return [chunk]

    return rewrite


def _repeated_chunks() -> Callable[[chat_pb2.TokenChunk], list[chat_pb2.TokenChunk]]:
    return lambda chunk: [chunk, chunk]


REWRITES: dict[str, Callable[[], Callable[[chat_pb2.TokenChunk], list[chat_pb2.TokenChunk]]]] = {
    "unknown notices and fields": _unknown_notices,
    "unknown second text": _unknown_entry,
    "unknown ending": _unknown_ending,
    "every chunk twice": _repeated_chunks,
}

__all__ = ["LIMIT_S", "Run"]
