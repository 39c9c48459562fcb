package dev.parley.client.errors;

/** The chosen conversation id is taken. */
public final class ConversationExistsException extends AlreadyExistsException {
    public ConversationExistsException(Failure failure) { super(failure); }
}
