package dev.parley.client.errors;

/** The credential does not allow this call. Resources of other users are NOT_FOUND instead. */
public final class ForbiddenException extends ParleyException {
    public ForbiddenException(Failure failure) { super(failure); }
}
