package dev.parley.client.errors;

/** A limit of the caller is reached; {@link #retryAfter} says when to come back, where the server knows. */
public class LimitExceededException extends ParleyException {
    public LimitExceededException(Failure failure) { super(failure); }
}
