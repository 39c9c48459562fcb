"""Sends commands to Redis over one connection, pipelined and in order. It never repeats a command by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeAlias

from redis.asyncio.connection import Connection
from redis.exceptions import NoScriptError, RedisError, ResponseError

from parley_server.relay.redis_check import Connect
from parley_server.relay.scripts import LOAD_ALL

# One exchange at a time serves all replies, so a connection that hangs delays all of them for this long.
ANSWER_S = 1.0
HANDSHAKE_S = 3.0
ANSWERS_PER_LIMIT = 64

_Batches: TypeAlias = "list[tuple[Sequence[bytes], asyncio.Future[list[Any]]]]"


class RelayAway(Exception):
    """Redis is unreachable or did not answer in time. The commands may have been executed."""


def is_about_one(answer: object) -> bool:
    """Whether the answer is an error of this command or its key, and not of the server's state."""
    # redis-py removes the error code from the message for the codes in its own list.
    return isinstance(answer, ResponseError) and (answer.status_code == "ERR" or str(answer).startswith("WRONGTYPE"))


class RedisPipeline:
    """One connection, opened on first use and again after an error.

    Commands that arrive while others are in flight are sent together once those are answered. Cancelling a caller
    affects neither the connection nor the commands of other callers.
    """

    def __init__(self, connect: Connect, name: str) -> None:
        self._connect = connect
        self._name = name
        self._connection: Connection | None = None
        self._waiting: _Batches = []
        self._worker: asyncio.Task[None] | None = None

    async def run(self, commands: Sequence[bytes]) -> list[Any]:
        """Run the commands and return their answers in order; a refusal is a `ResponseError` in the list.

        Raises RelayAway."""
        loop = asyncio.get_running_loop()
        answers: asyncio.Future[list[Any]] = loop.create_future()
        self._waiting.append((commands, answers))
        if self._worker is None:
            # The exchange has its own task. A caller that is cancelled within it would leave answers unread, and the
            # connection would have to be closed.
            self._worker = loop.create_task(self._work(), name=self._name)
        return await answers

    async def close(self) -> None:
        """Finish the commands in flight, then close the connection."""
        if self._worker is not None:
            await asyncio.wait([self._worker])
        await self._disconnect()

    async def _work(self) -> None:
        try:
            while self._waiting:
                batches, self._waiting = self._waiting, []
                try:
                    answers = await self._exchange([command for commands, _ in batches for command in commands])
                except (RedisError, OSError, TimeoutError) as error:
                    await self._disconnect()
                    self._fail(batches, error)
                except BaseException as error:
                    # Also if this task is cancelled, or has a bug, its callers must not wait forever.
                    self._fail(batches, error)
                    raise
                else:
                    self._answer(batches, answers)
        finally:
            # The loop has ended without an await since its last check, so that no command is left without a worker.
            self._worker = None

    def _answer(self, batches: _Batches, answers: list[Any]) -> None:
        start = 0
        for commands, waiting in batches:
            if not waiting.done():
                waiting.set_result(answers[start : start + len(commands)])
            start += len(commands)

    def _fail(self, batches: _Batches, error: BaseException) -> None:
        for _, waiting in batches:
            if not waiting.done():
                # Each caller gets its own exception: a shared one would collect the tracebacks of all callers.
                away = RelayAway(str(error) or f"no answer within {ANSWER_S:g} s")
                away.__cause__ = error
                waiting.set_exception(away)

    async def _exchange(self, commands: list[bytes]) -> list[Any]:
        connection = await self._connected()
        answers = await _exchange(connection, commands)
        unknown = [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:  # Redis was restarted, or its scripts were flushed
            await _exchange(connection, LOAD_ALL)
            again = await _exchange(connection, [commands[i] for i in unknown])
            for i, answer in zip(unknown, again, strict=True):
                answers[i] = answer
        return answers

    async def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._connect(self._name)
        if not self._connection.is_connected:
            async with asyncio.timeout(HANDSHAKE_S):
                await self._connection.connect()  # type: ignore[no-untyped-call] # redis-py's own
        return self._connection

    async def _disconnect(self) -> None:
        if self._connection is not None:
            await self._connection.disconnect(nowait=True)
            self._connection = None


async def _send(connection: Connection, commands: list[bytes]) -> None:
    """Send without reading. Raises OSError or RedisError if the connection is lost."""
    try:
        await connection.send_packed_command(commands, check_health=False)
    except RuntimeError as closed:  # how uvloop reports a write after the connection was reset
        raise ConnectionResetError(str(closed)) from closed


async def _exchange(connection: Connection, commands: list[bytes]) -> list[Any]:
    """Send commands and read their answers. The limit `ANSWER_S` applies to every `ANSWERS_PER_LIMIT` answers, so that
    a long list of commands may take longer."""
    answers: list[Any] = []
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(ANSWER_S) as limit:
        await _send(connection, commands)
        for _ in commands:
            try:
                answers.append(await connection.read_response())
            except ResponseError as refused:
                answers.append(refused)
            if len(answers) % ANSWERS_PER_LIMIT == 0:
                limit.reschedule(loop.time() + ANSWER_S)
    return answers
