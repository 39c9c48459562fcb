package dev.parley.client.errors;

/** No such conversation, or it belongs to another user. */
public final class ConversationNotFoundException extends NotFoundException {
    public ConversationNotFoundException(Failure failure) { super(failure); }
}
