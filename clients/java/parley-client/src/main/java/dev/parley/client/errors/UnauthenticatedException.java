package dev.parley.client.errors;

/** The credential is missing or wrong. */
public final class UnauthenticatedException extends ParleyException {
    public UnauthenticatedException(Failure failure) { super(failure); }
}
