"""Google's own SDK reads the same from the recorded streams as the plain reader, over a socket."""

import json
import warnings

import pytest

from tests.recordings.dialects import DIALECTS
from tests.recordings.folder import VARIABLE, recordings, streams_of
from tests.recordings.test_streams import beginnings
from tests.sdks import gemini_client
from tests.upstream import Script, Upstream

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # at import, the SDK uses functions that Python has deprecated
    from google.genai import errors

FOLDER = recordings()
if FOLDER is None:
    pytest.skip(f"{VARIABLE} names no folder of recorded answers", allow_module_level=True)

[DIALECT] = [dialect for dialect in DIALECTS if dialect.name == "gemini"]
STREAMS = streams_of(FOLDER, "gemini")
ARGUMENTS_IN_PIECES = {
    # The SDK returns the pieces of the arguments of a call; Parley does not ask for pieces, and refuses them.
    "gemini/vercelai-google-stream-tool-call-array-arguments-missing-terminal-function-call",
}
UNRELIABLE = {
    # A finish reason on each chunk: a beginning of the stream looks complete.
    "vertex/firebase-streaming-failure-error-mid-stream",
    "vertex/firebase-streaming-failure-recitation-no-content",
    "vertex/firebase-streaming-success-unknown-safety-enum",
    "vertex/firebase-streaming-success-utf8",
}


@pytest.mark.filterwarnings("ignore:.*is not a valid:UserWarning")  # names that the SDK does not know
@pytest.mark.parametrize("name", [name for name in STREAMS if name not in ARGUMENTS_IN_PIECES])
async def test_the_sdk_reads_the_same(name):
    body = STREAMS[name].read_bytes()
    expected = DIALECT.read_plainly(body)
    chunks, failed = await _read_by_the_sdk(body)
    candidates = [candidate for chunk in chunks for candidate in chunk.candidates or ()]
    parts = [part for each in candidates for part in (each.content and each.content.parts) or ()]
    texts = [(part.text, bool(part.thought)) for part in parts if part.text]
    assert "".join(text for text, thought in texts if not thought) == expected.text
    assert "".join(text for text, thought in texts if thought) == expected.reasoning
    calls = [part.function_call for part in parts if part.function_call]
    assert tuple((call.id, call.name, json.dumps(call.args)) for call in calls) == expected.calls
    words = [each.finish_reason.value for each in candidates if each.finish_reason]
    feedback = [chunk.prompt_feedback.block_reason for chunk in chunks if chunk.prompt_feedback]
    words += [reason.value for reason in feedback if reason]
    # An answer of nothing but an image is malformed for Parley, whatever its finish reason.
    assert failed or expected.end == "PROVIDER_MALFORMED" or "".join(words[-1:]) == expected.word
    assert failed == (expected.end in {"PROVIDER_REJECTED", "PROVIDER_UNAUTHENTICATED"})
    counted = [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata]
    counts = [_counts(each) for each in counted if each.total_token_count]
    assert (counts[-1] if counts else None) == expected.counts


@pytest.mark.parametrize("name", [name for name in STREAMS if name not in UNRELIABLE])
def test_no_beginning_is_complete(name):
    """Gemini sends nothing after the event with the finish reason."""
    body = STREAMS[name].read_bytes()
    before = [reading for place, reading in beginnings(DIALECT, body) if place < len(body.rstrip())]
    assert {reading.end for reading in before} <= {"PROVIDER_TRUNCATED", "PROVIDER_MALFORMED"}


async def _read_by_the_sdk(body):
    """The chunks, and whether the SDK has raised an error."""
    chunks = []
    async with Upstream() as upstream:
        upstream.reply_with(Script([body]))
        client = gemini_client(upstream.url)
        try:
            async for chunk in await client.aio.models.generate_content_stream(model="m", contents="Hi"):
                chunks.append(chunk)  # noqa: PERF401 - an error must not lose the chunks before it
        except errors.APIError:
            return chunks, True
        finally:
            await client.aio.aclose()
            client.close()
    return chunks, False


def _counts(usage):
    thoughts = usage.thoughts_token_count or 0
    return (
        (usage.prompt_token_count or 0) + (usage.tool_use_prompt_token_count or 0),
        usage.cached_content_token_count or 0,
        (usage.candidates_token_count or 0) + thoughts,
        thoughts,
    )
