"""Every error reason of the contract has its class; an unknown reason is classified by its status code."""

from datetime import UTC, datetime

import grpc
import pytest
from parley import errors
from parley._status import TRAILER, error_of_proto, error_of_status
from parley.v1 import errors_pb2

from tests.scripted_server import reply_error

CLASSES = {
    "INVALID_REQUEST": errors.InvalidRequest,
    "UNSUPPORTED_INPUT": errors.UnsupportedInput,
    "CONTEXT_TOO_LARGE": errors.ContextTooLarge,
    "UNAUTHENTICATED": errors.Unauthenticated,
    "FORBIDDEN": errors.Forbidden,
    "CONVERSATION_NOT_FOUND": errors.ConversationNotFound,
    "MESSAGE_NOT_FOUND": errors.MessageNotFound,
    "REPLY_NOT_FOUND": errors.ReplyNotFound,
    "MODEL_NOT_FOUND": errors.ModelNotFound,
    "PROVIDER_NOT_FOUND": errors.ProviderNotFound,
    "IMAGE_NOT_FOUND": errors.ImageNotFound,
    "REQUEST_ID_REUSED": errors.RequestIdReused,
    "CONVERSATION_EXISTS": errors.ConversationExists,
    "REPLY_IN_PROGRESS": errors.ReplyInProgress,
    "ETAG_MISMATCH": errors.EtagMismatch,
    "INPUT_TOO_LARGE": errors.InputTooLarge,
    "RATE_LIMITED": errors.RateLimited,
    "QUOTA_EXCEEDED": errors.QuotaExceeded,
    "TOO_MANY_READERS": errors.TooManyReaders,
    "NOT_CONFIGURED": errors.NotConfigured,
    "DRAINING": errors.Draining,
    "OVERLOADED": errors.Overloaded,
    "STORAGE_UNAVAILABLE": errors.StorageUnavailable,
    "IDENTITY_UNAVAILABLE": errors.IdentityUnavailable,
    "PROVIDER_UNAVAILABLE": errors.ReplyFailed,
    "PROVIDER_RATE_LIMITED": errors.ReplyFailed,
    "PROVIDER_TIMEOUT": errors.ReplyFailed,
    "PROVIDER_REJECTED": errors.ReplyFailed,
    "PROVIDER_UNAUTHENTICATED": errors.ReplyFailed,
    "PROVIDER_MALFORMED": errors.ReplyFailed,
    "PROVIDER_TRUNCATED": errors.ReplyFailed,
    "PROVIDER_CONTEXT_TOO_LARGE": errors.ReplyFailed,
    "OWNER_LOST": errors.ReplyFailed,
    "INTERNAL": errors.InternalError,
}


def test_the_table_names_every_reason_of_the_contract():
    names = {name.removeprefix("ERROR_REASON_") for name in errors_pb2.ErrorReason.keys()}  # noqa: SIM118 - an enum
    assert names - {"UNSPECIFIED"} == set(CLASSES)


@pytest.mark.parametrize("reason", CLASSES)
def test_each_reason_has_its_error_class(reason):
    proto = reply_error(grpc.StatusCode.ABORTED, reason, retryable=True, retry_after_s=1.5, metadata={"reply_id": "r"})
    error = error_of_proto(proto)
    assert type(error) is CLASSES[reason]
    assert (error.reason, error.code, error.message) == (reason, grpc.StatusCode.ABORTED, "as scripted")
    assert (error.retryable, error.retry_after_s, error.metadata) == (True, 1.5, {"reply_id": "r"})


def test_an_unknown_reason_is_classified_by_its_code():
    error = error_of_proto(errors_pb2.ReplyError(code=grpc.StatusCode.NOT_FOUND.value[0], reason=999))
    assert type(error) is errors.NotFound
    assert error.reason == "UNKNOWN_999"


def test_an_invalid_trailer_is_ignored():
    trailers = grpc.aio.Metadata((TRAILER, b"\xff\xff\xff"))
    status = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), trailers, details="gone")
    error = error_of_status(status)
    assert (type(error), error.message, error.reason, error.retryable) == (errors.Unavailable, "gone", "", True)


def test_the_error_of_a_reply_in_progress_has_the_id_of_the_reply():
    proto = reply_error(grpc.StatusCode.ABORTED, "REPLY_IN_PROGRESS", metadata={"reply_id": "r9"})
    assert error_of_proto(proto).reply_id == "r9"


def test_a_quota_error_has_its_numbers_and_the_end_of_its_period():
    metadata = {"limit": "tokens_per_day", "used": "199500", "max": "200000", "needed": "1200", "subject": "end_user"}
    metadata["reset_time"] = "2026-11-30T00:00:00Z"
    error = errors.QuotaExceeded("full", metadata=metadata)
    assert (error.limit, error.subject) == ("tokens_per_day", "end_user")
    assert (error.used, error.max, error.needed) == (199_500, 200_000, 1_200)
    assert error.reset_time == datetime(2026, 11, 30, tzinfo=UTC)


@pytest.mark.parametrize("metadata", [{}, {"used": "many", "max": "", "needed": "1e9", "reset_time": "soon"}])
def test_missing_or_unreadable_details_of_a_limit_are_none(metadata):
    error = errors.RateLimited("later", metadata=metadata)
    assert (error.used, error.max, error.needed, error.reset_time, error.subject) == (None, None, None, None, "")
