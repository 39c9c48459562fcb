package dev.parley.client.errors;

/** No such resource, or it belongs to another user. */
public class NotFoundException extends ParleyException {
    public NotFoundException(Failure failure) { super(failure); }
}
