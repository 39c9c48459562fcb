package dev.parley.client.errors;

/** No such reply, or it belongs to another user. */
public final class ReplyNotFoundException extends NotFoundException {
    public ReplyNotFoundException(Failure failure) { super(failure); }
}
