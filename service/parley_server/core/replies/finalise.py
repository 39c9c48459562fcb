"""Stores the end of a reply, with less content if the store fails on a value in it.

One bad value must not keep a reply, its conversation and its readers waiting for ever.
"""

from __future__ import annotations

import logging

import msgspec

from parley_server.core.model import State, Usage
from parley_server.core.ports import Store
from parley_server.core.quota_values import Charge
from parley_server.core.replies.endings import internal_error
from parley_server.core.store_types import Finalisation, Finalised
from parley_server.errors import StorageUnavailable

logger = logging.getLogger("parley.reply")


async def finalise(store: Store, finalisation: Finalisation) -> Finalised | None:
    """Call `Store.finalise`. If that fails by a defect, end the reply as FAILED / INTERNAL with its text, or,
    if that fails too, without it. Raises the last error, and `StorageUnavailable` at once."""
    for attempt in (finalisation, _failed(finalisation)):
        try:
            return await store.finalise(attempt)
        except StorageUnavailable:
            raise
        except Exception:  # any defect: the reply must end
            logger.exception("finalisation_failed", extra={"fields": {"reply_id": finalisation.reply_id}})
    return await store.finalise(msgspec.structs.replace(_failed(finalisation), message=None, text_length=0))


def _failed(finalisation: Finalisation) -> Finalisation:
    """The same end as a failure, without values from a provider or a caller except the text."""
    message = finalisation.message
    return msgspec.structs.replace(
        finalisation,
        state=State.FAILED,
        finish_reason=None,
        provider_reason="",
        error=internal_error(finalisation.reply_id),
        usage=Usage(estimated=True),
        charge=Charge(),
        cancel_reason="",
        kept=None,
        message=None if message is None else msgspec.structs.replace(message, partial=True, failed=True),
    )
