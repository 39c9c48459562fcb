package dev.parley.client.errors;

/** A defect of the server; metadata {@code call_id} is in its log lines. */
public final class InternalErrorException extends ParleyException {
    public InternalErrorException(Failure failure) { super(failure); }
}
