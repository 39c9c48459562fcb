package dev.parley.client.errors;

/** The quota of the period is used up. The client does not wait: the end of the period may be a month away. */
public final class QuotaExceededException extends LimitExceededException {
    public QuotaExceededException(Failure failure) { super(failure); }
}
