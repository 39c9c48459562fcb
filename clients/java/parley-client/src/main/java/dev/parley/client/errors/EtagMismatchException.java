package dev.parley.client.errors;

/** The resource has changed since it was read: read it again, then change it. */
public final class EtagMismatchException extends ParleyException {
    public EtagMismatchException(Failure failure) { super(failure); }
}
