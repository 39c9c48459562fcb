package dev.parley.client;

import com.google.protobuf.FieldMask;
import dev.parley.client.errors.AlreadyExistsException;
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

/**
 * Stores the dialogues of replies. A caller that acts for an end user sees only that user's conversations; others are
 * NOT_FOUND. A page has at most 1 MiB, and may have fewer items than {@code page_size}.
 */
public final class Conversations {
    private static final int TITLE_LENGTH = 60;

    private final Connection connection;

    Conversations(Connection connection) {
        this.connection = connection;
    }

    /** As {@link #create(CreateConversationRequest)}, without messages. */
    public Conversation create(Conversation conversation) {
        return create(CreateConversationRequest.newBuilder().setConversation(conversation).build());
    }

    /**
     * Creates a conversation, optionally with messages and a chosen id. A repeated {@code request_id} returns the
     * existing one.
     */
    public Conversation create(CreateConversationRequest request) {
        String key = request.getRequestId().isEmpty() ? UUID.randomUUID().toString() : request.getRequestId();
        var keyed = request.toBuilder().setRequestId(key).build();
        return connection.call(ConversationsGrpc.getCreateConversationMethod(), keyed);
    }

    /**
     * Creates a conversation of a chosen id with its first question, unless it exists; without a title, it gets the first 60
     * characters of the question. Also returns if the conversation belongs to another user: a request for a reply in it
     * is then NOT_FOUND.
     *
     * @param conversation its id, and the settings of a new one
     */
    public void ensure(Conversation conversation, String firstQuestion) {
        var request = CreateConversationRequest.newBuilder()
                .setRequestId("conversation:" + conversation.getId())
                .setConversation(conversation.getTitle().isEmpty()
                        ? conversation.toBuilder().setTitle(title(firstQuestion)).build()
                        : conversation);
        try {
            create(request.build());
        } catch (AlreadyExistsException exists) {
            // The conversation is there, or an earlier first question has made it.
        }
    }

    /** A title has one line. */
    private static String title(String question) {
        String line = question.replaceAll("[\\p{Cc}\\p{Cs}\\p{Zl}\\p{Zp}\\s]+", " ").strip();
        int length = Math.min(TITLE_LENGTH, line.codePointCount(0, line.length()));
        return line.substring(0, line.offsetByCodePoints(0, length));
    }

    /** Returns a conversation; its {@code activeReplyId} names the running reply, which can be resumed. */
    public Conversation get(String conversationId) {
        var request = GetConversationRequest.newBuilder().setConversationId(conversationId).build();
        return connection.call(ConversationsGrpc.getGetConversationMethod(), request);
    }

    /** As {@link #list(ListConversationsRequest)}, without a filter. */
    public Stream<Conversation> list() {
        return list(ListConversationsRequest.getDefaultInstance());
    }

    /**
     * Returns the matching conversations, newest activity first, without {@code system} and {@code postSystem}. Pages
     * are fetched as they are needed.
     */
    public Stream<Conversation> list(ListConversationsRequest request) {
        return pages(request).flatMap(page -> page.getConversationsList().stream());
    }

    /** Returns the same conversations page by page. Pages are fetched as they are needed. */
    public Stream<ListConversationsResponse> pages(ListConversationsRequest request) {
        return Pages.<ListConversationsResponse, String>stream(
                token -> connection.call(
                        ConversationsGrpc.getListConversationsMethod(), request.toBuilder().setPageToken(token).build()),
                request.getPageToken(),
                page -> page.getNextPageToken().isEmpty() ? null : page.getNextPageToken());
    }

    /**
     * Changes the named fields of a conversation, or those that are set. Its {@code etag}, if set, must be current. Not
     * safe to retry after a cut: a retry may overwrite later changes of another caller.
     */
    public Conversation update(Conversation conversation, String... fields) {
        var mask = FieldMask.newBuilder().addAllPaths(List.of(fields));
        var request = UpdateConversationRequest.newBuilder()
                .setConversation(conversation)
                .setUpdateMask(mask)
                .build();
        return connection.callOnce(ConversationsGrpc.getUpdateConversationMethod(), request);
    }

    /** As {@link #delete(String, String)}, without an etag. */
    public void delete(String conversationId) {
        delete(conversationId, "");
    }

    /**
     * Deletes a conversation with its messages, images and replies; a running reply is cancelled first. Its
     * {@code etag}, if set, must be current. Usage and cost remain counted.
     */
    public void delete(String conversationId, String etag) {
        var request = DeleteConversationRequest.newBuilder()
                .setConversationId(conversationId)
                .setEtag(etag)
                .build();
        connection.call(ConversationsGrpc.getDeleteConversationMethod(), request);
    }

    /** As {@link #messages(ListMessagesRequest)}, for the branch that is shown. */
    public Stream<Message> messages(String conversationId) {
        return messages(ListMessagesRequest.newBuilder().setConversationId(conversationId).build());
    }

    /**
     * Returns the messages of a branch, newest first; by default of the branch that is shown. Pages are fetched as they
     * are needed.
     */
    public Stream<Message> messages(ListMessagesRequest request) {
        return messagePages(request).flatMap(page -> page.getMessagesList().stream());
    }

    /** As {@link #messagePages(ListMessagesRequest)}, for the branch that is shown. */
    public Stream<ListMessagesResponse> messagePages(String conversationId) {
        return messagePages(ListMessagesRequest.newBuilder().setConversationId(conversationId).build());
    }

    /** Returns the same messages page by page, with their replies. Pages are fetched as they are needed. */
    public Stream<ListMessagesResponse> messagePages(ListMessagesRequest request) {
        return Pages.<ListMessagesResponse, String>stream(
                token -> connection.call(
                        ConversationsGrpc.getListMessagesMethod(), request.toBuilder().setPageToken(token).build()),
                request.getPageToken(),
                page -> page.getNextPageToken().isEmpty() ? null : page.getNextPageToken());
    }

    /** Returns an image of one of the caller's conversations, with its bytes. */
    public Image image(String imageId) {
        var request = GetImageRequest.newBuilder().setImageId(imageId).build();
        return connection.call(ConversationsGrpc.getGetImageMethod(), request);
    }
}
