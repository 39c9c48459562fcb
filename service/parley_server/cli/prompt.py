"""`parley prompt`: shows what the model is shown in a conversation's next turn. It reads the database and writes
nothing, so that it may run beside a server."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator

from parley_server.cli.options import read_settings
from parley_server.core.clock import SystemClock
from parley_server.core.context.build import Built, Row
from parley_server.core.context.estimate import (
    IMAGE_TOKENS,
    MESSAGE_TOKENS,
    Estimator,
    content_size,
    most_bytes,
)
from parley_server.core.context.prompts import TurnPrompts
from parley_server.core.model import Identity, Message, Model, Role, TextPart
from parley_server.core.replies.plan import store_messages
from parley_server.core.requests import ReplyPayload, ReplyRequest
from parley_server.core.store_types import Position
from parley_server.errors import ParleyError
from parley_server.exit_status import CANNOT_RUN
from parley_server.providers.registry import Registry
from parley_server.settings import Settings, is_sqlite
from parley_server.store import open_store
from parley_server.store.engine.location import StoreUnusable, sqlite_path
from parley_server.telemetry.observer import Telemetry


def run(options: argparse.Namespace) -> int:
    """Print the prompt, or with `--body` the provider's request; the exit status."""
    try:
        lines = asyncio.run(_lines(read_settings(options), options))
    except StoreUnusable as error:
        return _refused(str(error))
    except ParleyError as error:
        return _refused(error.message)
    print("\n".join(lines))
    return 0


def _refused(problem: str) -> int:
    print(f"parley prompt: {problem}", file=sys.stderr)
    return CANNOT_RUN


async def _lines(settings: Settings, options: argparse.Namespace) -> list[str]:
    if is_sqlite(settings.database_url) and not sqlite_path(settings.database_url).exists():
        raise StoreUnusable(f"there is no database at {sqlite_path(settings.database_url)}")
    clock = SystemClock()
    registry = Registry(settings.providers, settings.models, settings.server.default_model, clock=clock)
    store = open_store(settings.database_url)
    try:
        await store.start()
        new = (Message(role=Role.USER, parts=(TextPart(text=options.text),)),) if options.text else ()
        identity = Identity(tenant=options.tenant)
        source = await store.read_turn(
            identity,
            options.conversation,
            Position(),
            has_input=bool(new),
            new_turn=bool(new),
            max_bytes=most_bytes(registry.models()),
        )
        model = registry.model(options.model or source.conversation.model)
        request = ReplyRequest(identity=identity, payload=ReplyPayload(messages=new))
        _, shown, _ = store_messages(new, source.parent_id, clock.now_us())
        prompts = TurnPrompts(request, source, shown, Estimator(Telemetry()))
        if options.body:
            body = registry.body_of(prompts.of(model))
            return [body.decode()] if body is not None else [f"the provider {model.provider} sends no request"]
        return list(described(prompts, model))
    finally:
        await store.close()
        await registry.close()


def described(prompts: TurnPrompts, model: Model) -> Iterator[str]:
    """Lines about the prompt of this model: its size, each message, and what it does not contain."""
    built, budget = prompts.built(model), prompts.budget(model)
    limit = "no limit is known" if budget is None else f"at most {budget:.0f}"
    yield f"model     {model.alias} ({model.name} at {model.provider})"
    yield f"tokens    {built.tokens} by estimate, {limit}"
    if ignored := prompts.ignored_settings(model):
        yield f"ignored   {', '.join(ignored)}"
    yield ""
    yield f"{'role':<10}{'id':<28}{'tokens':>8}  notes".rstrip()
    for row in built.rows:
        tokens = _tokens(row, prompts, model)
        yield f"{row.message.role:<10}{row.message_id or '-':<28}{tokens:>8}  {_notes(row)}".rstrip()
    yield from _left_out(built)


def _tokens(row: Row, prompts: TurnPrompts, model: Model) -> int:
    sizing = prompts.sizing(model)
    size, images = content_size(row.message.parts)
    known = {message.id for message in prompts.source.path}
    ratio = sizing.history_ratio if row.message_id in known else sizing.rates.per_byte
    return round(MESSAGE_TOKENS + size * ratio + images * IMAGE_TOKENS)


def _notes(row: Row) -> str:
    notes = []
    if row.message.cache_mark:
        notes.append("end of a part to cache")
    if (kept := row.message.kept) is not None:
        size = sum(len(item.encode()) for item in kept.items)
        notes.append(f"{len(kept.items)} items of the vendor, {size} bytes")
    return "; ".join(notes)


def _left_out(built: Built) -> Iterator[str]:
    for reason, messages in built.left_out:
        first, last = messages[0].id, messages[-1].id
        names = first if first == last else f"{first} to {last}"
        yield f"left out  {len(messages)}, {reason}: {names}"
