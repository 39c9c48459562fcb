package dev.parley.client.errors;

/** The {@code requestId} was used before with another payload. */
public final class RequestIdReusedException extends AlreadyExistsException {
    public RequestIdReusedException(Failure failure) { super(failure); }
}
