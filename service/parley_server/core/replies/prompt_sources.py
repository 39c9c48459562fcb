"""Reads what the prompt of a request continues: the branch of its conversation, and the images that it shows."""

from __future__ import annotations

import msgspec

from parley_server.core.context.estimate import most_bytes
from parley_server.core.context.groups import unknown_results
from parley_server.core.message_checks import refuse_unknown
from parley_server.core.model import Conversation, Role
from parley_server.core.ports import Catalog, Clock, Store
from parley_server.core.replies.generate import as_it_stands
from parley_server.core.replies.live import LiveReplies
from parley_server.core.replies.plan import new_conversation, shown_images
from parley_server.core.requests import ReplyRequest
from parley_server.core.store_types import PromptSource, StoredImage
from parley_server.errors import ImageNotFound


class PromptSources:
    """For one process, whose `live_replies` may write the answer that a request interrupts."""

    def __init__(self, *, store: Store, clock: Clock, live_replies: LiveReplies) -> None:
        self._store = store
        self._clock = clock
        self._live_replies = live_replies

    async def read(self, request: ReplyRequest, catalog: Catalog) -> PromptSource:
        """The branch that the request continues, as far as a model of the catalog can take it, or a new conversation.
        Raises `ConversationNotFound`, `MessageNotFound`, `ImageNotFound`, `StorageUnavailable`."""
        payload = request.payload
        if payload.conversation_id:
            source = await self._store.read_turn(
                request.identity,
                payload.conversation_id,
                payload.position,
                has_input=bool(payload.messages),
                new_turn=any(message.role is Role.USER for message in payload.messages),
                max_bytes=most_bytes(catalog.models()),
            )
            return await self._with_images(request, source)
        if shown := shown_images(payload.messages):
            raise image_not_found(shown[0])  # a new conversation holds none yet
        given = payload.new_conversation or Conversation()
        return PromptSource(conversation=new_conversation(given, request.identity, self._clock.now_us()))

    async def check_results(self, request: ReplyRequest, source: PromptSource) -> None:
        """Refuse a tool result without a call before it, because no prompt could contain it.

        The call may be in a running answer that this request interrupts."""
        payload, live_replies = request.payload, self._live_replies
        path = source.path
        if running := source.conversation.active_reply_id:
            writer = live_replies.running.get(running) or live_replies.followed.get(running)
            if writer is None:  # another replica writes it: its calls are known when it has ended
                return
            written = as_it_stands(writer.log, self._clock.now_us()).message
            path = (*path, written) if written else path
        unknown = unknown_results(path, payload.messages)
        if unknown and source.path and source.path[0].parent_id:  # older messages were not read
            whole = await self._store.read_turn(
                request.identity, payload.conversation_id, payload.position, has_input=True, whole=True
            )
            unknown = unknown_results((*whole.path, *path), payload.messages)
        refuse_unknown("input", unknown)

    async def _with_images(self, request: ReplyRequest, source: PromptSource) -> PromptSource:
        """The source with the stored images that the input shows and the branch does not."""
        held = {image.id for image in source.images}
        more = []
        for image_id in dict.fromkeys(shown_images(request.payload.messages)):
            if image_id not in held:
                image = await self._store.get_image(request.identity, image_id)
                more.append(StoredImage(id=image_id, mime_type=image.mime_type, data=image.data))
        return msgspec.structs.replace(source, images=source.images + tuple(more)) if more else source


def image_not_found(image_id: str) -> ImageNotFound:
    """The refusal of a request that shows an image which its conversation does not hold."""
    return ImageNotFound(f"image {image_id[:64]!r} is not one of the conversation's")
