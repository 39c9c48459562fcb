package dev.parley.client.errors;

/** No such conversation. */
public final class ConversationNotFoundException extends NotFoundException {
    public ConversationNotFoundException(Failure failure) { super(failure); }
}
