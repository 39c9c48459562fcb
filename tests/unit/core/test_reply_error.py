"""Stored errors can be read by older releases, which have fewer reasons."""

import msgspec
import pytest
from parley_server.core.model import ReplyError
from parley_server.errors import ProviderContextTooLarge, ProviderRejected, Reason
from parley_server.rpc.status import error_message, trailers_of

TOO_LARGE = ProviderContextTooLarge("fake answered HTTP 400 (context_length_exceeded)", metadata={"limit": "4096"})
OLDER_REASONS = frozenset(Reason) - {Reason.PROVIDER_CONTEXT_TOO_LARGE}


def test_a_new_reason_is_stored_under_a_reason_that_older_releases_can_read():
    stored = ReplyError.of(TOO_LARGE)
    assert stored.reason in OLDER_REASONS
    assert (stored.reason, stored.shown) == (Reason.PROVIDER_REJECTED, "PROVIDER_CONTEXT_TOO_LARGE")
    assert not stored.retryable
    assert msgspec.json.decode(msgspec.json.encode(stored), type=ReplyError) == stored


def test_the_stored_reason_is_shown_as_the_new_reason():
    stored = ReplyError.of(TOO_LARGE)
    assert stored.shown_reason is Reason.PROVIDER_CONTEXT_TOO_LARGE
    assert (error_message(stored).reason, error_message(stored).code) == (49, 10)
    assert b"PROVIDER_CONTEXT_TOO_LARGE" in trailers_of(stored)[0][1]


def test_an_unknown_shown_reason_is_read_as_the_stored_reason():
    stored = ReplyError(reason=Reason.PROVIDER_REJECTED, message="no", shown="PROVIDER_NEW_REASON")
    assert stored.shown_reason is Reason.PROVIDER_REJECTED


@pytest.mark.parametrize("reason", sorted(OLDER_REASONS))
def test_other_reasons_are_stored_unchanged(reason):
    error = ProviderRejected("no")
    error.reason = reason
    stored = ReplyError.of(error)
    assert (stored.reason, stored.shown, stored.shown_reason) == (reason, "", reason)
