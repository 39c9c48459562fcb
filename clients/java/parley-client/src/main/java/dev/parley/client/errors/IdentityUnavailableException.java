package dev.parley.client.errors;

/** The server cannot read the keys that verify tokens, so that it has not checked the caller's token. */
public final class IdentityUnavailableException extends UnavailableException {
    public IdentityUnavailableException(Failure failure) { super(failure); }
}
