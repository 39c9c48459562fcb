package dev.parley.client.errors;

/** The chosen conversation id is already in use. */
public final class ConversationExistsException extends AlreadyExistsException {
    public ConversationExistsException(Failure failure) { super(failure); }
}
