package dev.parley.client.errors;

/** A defect of the server; metadata {@code call_id} finds it in the server's logs. */
public final class InternalErrorException extends ParleyException {
    public InternalErrorException(Failure failure) { super(failure); }
}
