"""What is kept of an error, so that releases with fewer reasons can read it."""

import msgspec
import pytest
from parley_server.core.model import ReplyError
from parley_server.errors import ProviderContextTooLarge, ProviderRejected, Reason
from parley_server.rpc.status import error_message, trailers_of

TOO_LARGE = ProviderContextTooLarge("fake answered HTTP 400 (context_length_exceeded)", metadata={"limit": "4096"})
OLDER_REASONS = frozenset(Reason) - {Reason.PROVIDER_CONTEXT_TOO_LARGE}


def test_a_new_reason_is_stored_under_a_reason_that_older_releases_can_read():
    kept = ReplyError.of(TOO_LARGE)
    assert kept.reason in OLDER_REASONS
    assert (kept.reason, kept.shown) == (Reason.PROVIDER_REJECTED, "PROVIDER_CONTEXT_TOO_LARGE")
    assert not kept.retryable
    assert msgspec.json.decode(msgspec.json.encode(kept), type=ReplyError) == kept


def test_the_stored_reason_is_shown_as_the_new_reason():
    kept = ReplyError.of(TOO_LARGE)
    assert kept.shown_reason is Reason.PROVIDER_CONTEXT_TOO_LARGE
    assert (error_message(kept).reason, error_message(kept).code) == (49, 10)
    assert b"PROVIDER_CONTEXT_TOO_LARGE" in trailers_of(kept)[0][1]


def test_an_unknown_shown_reason_is_read_as_the_stored_reason():
    kept = ReplyError(reason=Reason.PROVIDER_REJECTED, message="no", shown="PROVIDER_ON_STRIKE")
    assert kept.shown_reason is Reason.PROVIDER_REJECTED


@pytest.mark.parametrize("reason", sorted(OLDER_REASONS))
def test_other_reasons_are_stored_unchanged(reason):
    error = ProviderRejected("no")
    error.reason = reason
    kept = ReplyError.of(error)
    assert (kept.reason, kept.shown, kept.shown_reason) == (reason, "", reason)
