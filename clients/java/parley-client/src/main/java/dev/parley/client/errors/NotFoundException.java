package dev.parley.client.errors;

/** No such thing, or somebody else's. */
public class NotFoundException extends ParleyException {
    public NotFoundException(Failure failure) { super(failure); }
}
