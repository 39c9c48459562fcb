package dev.parley.client.errors;

/** The server lacks a setting that the call needs, such as an encryption key. */
public final class NotConfiguredException extends ParleyException {
    public NotConfiguredException(Failure failure) { super(failure); }
}
