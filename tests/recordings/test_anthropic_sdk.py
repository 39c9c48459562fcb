"""Anthropic's client reads its recorded streams as `PlainMessage` does, with which the provider is compared."""

import dataclasses
import json

import pytest

from tests.integration.providers.anthropic_sdk import outcome_of, read_by_sdk
from tests.recordings.cuts import ends_of_events
from tests.recordings.folder import VARIABLE, recordings, streams_of
from tests.recordings.plain_messages import PlainMessage
from tests.upstream import Script, Upstream

FOLDER = recordings()
if FOLDER is None:
    pytest.skip(f"{VARIABLE} names no folder of recorded answers", allow_module_level=True)

SPLICED = "anthropic/vercelai-spliced-message-start"
"""The message starts again in the middle of a call; the client adds the second start's deltas to the first's blocks."""
STREAMS = {name: path for name, path in streams_of(FOLDER, "messages").items() if name != SPLICED}
END = b'"type":"message_stop"'


@pytest.mark.parametrize("name", STREAMS)
async def test_read_by_the_client(name):
    body = STREAMS[name].read_bytes()
    # Some recordings are several answers in one file. The client reads all of them, the provider the first.
    body = body[: next((end for end in ends_of_events(body) if END in body[:end]), len(body))]
    plain = PlainMessage()
    plain.add_all(body)
    expected = plain.outcome()
    async with Upstream() as upstream:
        upstream.reply_with(Script([body]))
        read = outcome_of(await read_by_sdk(upstream.url), expected.end)
    if expected.end == "MAX_TOKENS":  # the client completes the arguments of a call that was cut
        read, expected = (dataclasses.replace(each, calls=()) for each in (read, expected))
    calls = tuple((call_id, name, json.loads(arguments)) for call_id, name, arguments in expected.calls)
    assert read == dataclasses.replace(expected, calls=calls)
