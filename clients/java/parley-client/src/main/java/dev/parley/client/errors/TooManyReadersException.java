package dev.parley.client.errors;

/** The reply has as many readers as it may have. */
public final class TooManyReadersException extends LimitExceededException {
    public TooManyReadersException(Failure failure) { super(failure); }
}
