package dev.parley.client.errors;

/** No server could be reached, or it took no calls, for as long as the client's backoff allowed. */
public class UnavailableException extends ParleyException {
    public UnavailableException(Failure failure) { super(failure); }
}
