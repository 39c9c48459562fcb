package dev.parley.client.errors;

/** The server is at its limit of running replies, or too busy. */
public final class OverloadedException extends UnavailableException {
    public OverloadedException(Failure failure) { super(failure); }
}
