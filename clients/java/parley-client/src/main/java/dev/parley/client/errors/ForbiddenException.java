package dev.parley.client.errors;

/** The credential does not allow this call. */
public final class ForbiddenException extends ParleyException {
    public ForbiddenException(Failure failure) { super(failure); }
}
