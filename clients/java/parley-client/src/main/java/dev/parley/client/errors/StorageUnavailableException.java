package dev.parley.client.errors;

/** The database is down, or Redis where the call cannot do without it. */
public final class StorageUnavailableException extends UnavailableException {
    public StorageUnavailableException(Failure failure) { super(failure); }
}
