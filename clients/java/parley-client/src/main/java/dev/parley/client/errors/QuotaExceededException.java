package dev.parley.client.errors;

/** The quota of the period is used up. */
public final class QuotaExceededException extends LimitExceededException {
    public QuotaExceededException(Failure failure) { super(failure); }
}
