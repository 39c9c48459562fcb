package dev.parley.client.errors;

/** No such reply, or somebody else's. */
public final class ReplyNotFoundException extends NotFoundException {
    public ReplyNotFoundException(Failure failure) { super(failure); }
}
