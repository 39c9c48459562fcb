package dev.parley.client.errors;

/** No server could be reached, or none accepted the call, until the client's backoff expired. */
public class UnavailableException extends ParleyException {
    public UnavailableException(Failure failure) { super(failure); }
}
