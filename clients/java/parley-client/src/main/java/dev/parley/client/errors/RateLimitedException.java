package dev.parley.client.errors;

/** Too many messages in a minute, or too many replies at once. The client waits only within its backoff. */
public final class RateLimitedException extends LimitExceededException {
    public RateLimitedException(Failure failure) { super(failure); }
}
