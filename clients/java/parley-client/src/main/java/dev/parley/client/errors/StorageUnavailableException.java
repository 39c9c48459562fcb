package dev.parley.client.errors;

/** The server's database is down. */
public final class StorageUnavailableException extends UnavailableException {
    public StorageUnavailableException(Failure failure) { super(failure); }
}
