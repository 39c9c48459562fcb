package dev.parley.client.errors;

/** The reply has reached its limit of readers. */
public final class TooManyReadersException extends LimitExceededException {
    public TooManyReadersException(Failure failure) { super(failure); }
}
