"""parley.v1.Conversations: converts requests, calls the core and converts results."""

from __future__ import annotations

from parley.v1 import conversations_pb2, conversations_pb2_grpc, resources_pb2

from parley_server.core.conversations.service import Conversations
from parley_server.rpc import from_proto, to_proto
from parley_server.rpc.call import CallEnvironment, Caller, Context, Servicer, rpc

SERVICE = "/parley.v1.Conversations"


class ConversationsServicer(Servicer, conversations_pb2_grpc.ConversationsServicer):
    """The seven RPCs of the service."""

    def __init__(self, environment: CallEnvironment, conversations: Conversations) -> None:
        super().__init__(environment)
        self._conversations = conversations

    @rpc(f"{SERVICE}/CreateConversation")
    async def CreateConversation(
        self, request: conversations_pb2.CreateConversationRequest, context: Context, caller: Caller
    ) -> resources_pb2.Conversation:
        """Create a conversation with its first messages."""
        made = await self._conversations.create(caller.identity, from_proto.creation(request), request.request_id)
        return to_proto.conversation(made)

    @rpc(f"{SERVICE}/GetConversation")
    async def GetConversation(
        self, request: conversations_pb2.GetConversationRequest, context: Context, caller: Caller
    ) -> resources_pb2.Conversation:
        """Return a conversation."""
        return to_proto.conversation(await self._conversations.get(caller.identity, request.conversation_id))

    @rpc(f"{SERVICE}/ListConversations")
    async def ListConversations(
        self, request: conversations_pb2.ListConversationsRequest, context: Context, caller: Caller
    ) -> conversations_pb2.ListConversationsResponse:
        """Return a page of the caller's conversations."""
        page = await self._conversations.list(
            caller.identity,
            query=request.query,
            labels=dict(request.labels),
            page_size=request.page_size,
            page_token=request.page_token,
        )
        return conversations_pb2.ListConversationsResponse(
            conversations=[to_proto.conversation(one) for one in page.conversations],
            next_page_token=page.next_page_token,
        )

    @rpc(f"{SERVICE}/UpdateConversation")
    async def UpdateConversation(
        self, request: conversations_pb2.UpdateConversationRequest, context: Context, caller: Caller
    ) -> resources_pb2.Conversation:
        """Update fields of a conversation."""
        update = from_proto.conversation_update(request)
        return to_proto.conversation(await self._conversations.update(caller.identity, update))

    @rpc(f"{SERVICE}/DeleteConversation")
    async def DeleteConversation(
        self, request: conversations_pb2.DeleteConversationRequest, context: Context, caller: Caller
    ) -> conversations_pb2.DeleteConversationResponse:
        """Erase a conversation."""
        await self._conversations.delete(caller.identity, request.conversation_id, request.etag)
        return conversations_pb2.DeleteConversationResponse()

    @rpc(f"{SERVICE}/ListMessages")
    async def ListMessages(
        self, request: conversations_pb2.ListMessagesRequest, context: Context, caller: Caller
    ) -> conversations_pb2.ListMessagesResponse:
        """Return a page of a branch, or of the whole tree."""
        page = await self._conversations.messages(
            caller.identity, from_proto.message_filter(request), request.page_size, request.page_token
        )
        return conversations_pb2.ListMessagesResponse(
            messages=[to_proto.message(message) for message in page.messages],
            next_page_token=page.next_page_token,
            replies=[to_proto.reply_message(reply) for reply in page.replies],
        )

    @rpc(f"{SERVICE}/GetImage")
    async def GetImage(
        self, request: conversations_pb2.GetImageRequest, context: Context, caller: Caller
    ) -> resources_pb2.Image:
        """Return an image with its bytes."""
        return to_proto.image(await self._conversations.image(caller.identity, request.image_id))
