package dev.parley.client.errors;

/** The server is shutting down. */
public final class DrainingException extends UnavailableException {
    public DrainingException(Failure failure) { super(failure); }
}
