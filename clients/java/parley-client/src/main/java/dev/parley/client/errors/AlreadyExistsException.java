package dev.parley.client.errors;

/** The key or id is already in use. */
public class AlreadyExistsException extends ParleyException {
    public AlreadyExistsException(Failure failure) { super(failure); }
}
