package dev.parley.client.errors;

/** The database is unavailable, or Redis is and the call needs it. */
public final class StorageUnavailableException extends UnavailableException {
    public StorageUnavailableException(Failure failure) { super(failure); }
}
