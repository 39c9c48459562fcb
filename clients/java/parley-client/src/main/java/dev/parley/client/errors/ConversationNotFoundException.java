package dev.parley.client.errors;

/** No such conversation, or somebody else's. */
public final class ConversationNotFoundException extends NotFoundException {
    public ConversationNotFoundException(Failure failure) { super(failure); }
}
