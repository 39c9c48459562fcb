package dev.parley.client.errors;

/** The server takes no more replies for now. */
public final class OverloadedException extends UnavailableException {
    public OverloadedException(Failure failure) { super(failure); }
}
