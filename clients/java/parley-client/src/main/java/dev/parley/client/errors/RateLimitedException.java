package dev.parley.client.errors;

/** Too many messages for now. */
public final class RateLimitedException extends LimitExceededException {
    public RateLimitedException(Failure failure) { super(failure); }
}
