package dev.parley.client.errors;

/** The rate of messages is over its limit. */
public final class RateLimitedException extends LimitExceededException {
    public RateLimitedException(Failure failure) { super(failure); }
}
