package dev.parley.client.errors;

/** A defect of the engine; metadata {@code call_id} finds it in the logs. */
public final class InternalErrorException extends ParleyException {
    public InternalErrorException(Failure failure) { super(failure); }
}
