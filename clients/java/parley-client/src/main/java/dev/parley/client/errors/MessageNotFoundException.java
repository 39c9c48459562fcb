package dev.parley.client.errors;

/** No such message in the conversation. */
public final class MessageNotFoundException extends NotFoundException {
    public MessageNotFoundException(Failure failure) { super(failure); }
}
