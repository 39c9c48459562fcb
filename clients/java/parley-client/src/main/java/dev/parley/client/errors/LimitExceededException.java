package dev.parley.client.errors;

/** A limit of the caller is reached. */
public class LimitExceededException extends ParleyException {
    public LimitExceededException(Failure failure) { super(failure); }
}
