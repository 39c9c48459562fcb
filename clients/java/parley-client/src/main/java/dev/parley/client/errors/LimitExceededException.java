package dev.parley.client.errors;

/** The caller has reached a limit. */
public class LimitExceededException extends ParleyException {
    public LimitExceededException(Failure failure) { super(failure); }
}
