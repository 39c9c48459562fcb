package dev.parley.client;

import com.google.protobuf.FieldMask;
import dev.parley.v1.Conversation;
import dev.parley.v1.ConversationsGrpc;
import dev.parley.v1.CreateConversationRequest;
import dev.parley.v1.DeleteConversationRequest;
import dev.parley.v1.GetConversationRequest;
import dev.parley.v1.GetImageRequest;
import dev.parley.v1.Image;
import dev.parley.v1.ListConversationsRequest;
import dev.parley.v1.ListConversationsResponse;
import dev.parley.v1.ListMessagesRequest;
import dev.parley.v1.ListMessagesResponse;
import dev.parley.v1.Message;
import dev.parley.v1.UpdateConversationRequest;
import java.util.List;
import java.util.UUID;
import java.util.stream.Stream;

/** The caller's conversations: those of its end user, or of the whole tenant where it names none. */
public final class Conversations {
    private final Connection connection;

    Conversations(Connection connection) {
        this.connection = connection;
    }

    /** Creates a conversation; its id may be chosen. */
    public Conversation create(Conversation conversation) {
        return create(CreateConversationRequest.newBuilder().setConversation(conversation).build());
    }

    /** Creates a conversation, with messages to begin with; a repeated {@code request_id} returns what it made. */
    public Conversation create(CreateConversationRequest request) {
        CreateConversationRequest keyed = request.getRequestId().isEmpty()
                ? request.toBuilder().setRequestId(UUID.randomUUID().toString()).build()
                : request;
        return connection.call(ConversationsGrpc.getCreateConversationMethod(), keyed);
    }

    /** The conversation; its {@code active_reply_id} is a reply to resume. */
    public Conversation get(String conversationId) {
        return connection.call(
                ConversationsGrpc.getGetConversationMethod(),
                GetConversationRequest.newBuilder().setConversationId(conversationId).build());
    }

    /** All conversations, newest activity first. */
    public Stream<Conversation> list() { return list(ListConversationsRequest.getDefaultInstance()); }

    /** All conversations that match, newest activity first; pages are fetched as they are needed. */
    public Stream<Conversation> list(ListConversationsRequest request) {
        Stream<ListConversationsResponse> pages = Pages.stream(
                (String token) -> connection.call(
                        ConversationsGrpc.getListConversationsMethod(),
                        token == null ? request : request.toBuilder().setPageToken(token).build()),
                page -> emptyToNull(page.getNextPageToken()));
        return pages.flatMap(page -> page.getConversationsList().stream());
    }

    /**
     * Changes the named fields, or, without any, those that are set. The conversation's {@code etag}, where set, must be the
     * newest. It is not repeated after a cut, since it may overwrite what another caller has written meanwhile.
     */
    public Conversation update(Conversation conversation, String... fields) {
        var request = UpdateConversationRequest.newBuilder()
                .setConversation(conversation)
                .setUpdateMask(FieldMask.newBuilder().addAllPaths(List.of(fields)))
                .build();
        return connection.call(
                ConversationsGrpc.getUpdateConversationMethod(), () -> request, connection.settings.callTimeout(), false);
    }

    /** Erases the conversation with all that is in it; a running reply is cancelled first. */
    public void delete(String conversationId) { delete(conversationId, ""); }

    /** Erases the conversation if its etag still is this one. */
    public void delete(String conversationId, String etag) {
        connection.call(
                ConversationsGrpc.getDeleteConversationMethod(),
                DeleteConversationRequest.newBuilder().setConversationId(conversationId).setEtag(etag).build());
    }

    /** The messages of the branch that is shown, newest first. */
    public Stream<Message> messages(String conversationId) {
        return messages(ListMessagesRequest.newBuilder().setConversationId(conversationId).build());
    }

    /** The messages of a branch, or of all, newest first; pages are fetched as they are needed. */
    public Stream<Message> messages(ListMessagesRequest request) {
        Stream<ListMessagesResponse> pages = Pages.stream(
                (String token) -> connection.call(
                        ConversationsGrpc.getListMessagesMethod(),
                        token == null ? request : request.toBuilder().setPageToken(token).build()),
                page -> emptyToNull(page.getNextPageToken()));
        return pages.flatMap(page -> page.getMessagesList().stream());
    }

    /** An image with its bytes. */
    public Image image(String imageId) {
        return connection.call(
                ConversationsGrpc.getGetImageMethod(), GetImageRequest.newBuilder().setImageId(imageId).build());
    }

    private static String emptyToNull(String token) { return token.isEmpty() ? null : token; }
}
