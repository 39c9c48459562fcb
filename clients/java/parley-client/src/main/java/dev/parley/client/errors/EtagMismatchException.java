package dev.parley.client.errors;

/** The resource has changed since its etag was read. */
public final class EtagMismatchException extends ParleyException {
    public EtagMismatchException(Failure failure) { super(failure); }
}
