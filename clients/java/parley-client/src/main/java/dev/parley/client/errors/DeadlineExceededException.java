package dev.parley.client.errors;

/** The call took longer than its time limit. */
public final class DeadlineExceededException extends ParleyException {
    public DeadlineExceededException(Failure failure) { super(failure); }
}
