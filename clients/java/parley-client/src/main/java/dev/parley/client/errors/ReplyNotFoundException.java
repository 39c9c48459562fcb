package dev.parley.client.errors;

/** No such reply. */
public final class ReplyNotFoundException extends NotFoundException {
    public ReplyNotFoundException(Failure failure) { super(failure); }
}
