"""Has the store end a reply, with less than was asked where it cannot hold that: a value that nothing has bounded must
not keep a reply, its conversation and its readers waiting for ever.
"""

from __future__ import annotations

import logging

import msgspec

from parley_server.core.model import State, Usage
from parley_server.core.ports import Store
from parley_server.core.replies.endings import internal_error
from parley_server.core.store_types import Finalisation, Finalised
from parley_server.errors import StorageUnavailable

logger = logging.getLogger("parley.reply")


async def finalise(store: Store, finalisation: Finalisation) -> Finalised | None:
    """As `Store.finalise`. Where that fails by a defect, the reply ends as FAILED / INTERNAL with its text, and where
    that fails as well, without its text. Raises the last defect, and `StorageUnavailable` at once."""
    for attempt in (finalisation, _failed(finalisation)):
        try:
            return await store.finalise(attempt)
        except StorageUnavailable:
            raise
        except Exception:  # whatever it is, the reply has to end
            logger.exception("finalise_defect", extra={"fields": {"reply_id": finalisation.reply_id}})
    return await store.finalise(msgspec.structs.replace(_failed(finalisation), message=None, text_length=0))


def _failed(finalisation: Finalisation) -> Finalisation:
    """The same end without what a provider or a caller may have put in it, but for the text."""
    message = finalisation.message
    return msgspec.structs.replace(
        finalisation,
        state=State.FAILED,
        finish_reason=None,
        provider_reason="",
        error=internal_error(finalisation.reply_id),
        usage=Usage(estimated=True),
        cancel_reason="",
        message=None if message is None else msgspec.structs.replace(message, partial=True, failed=True),
    )
