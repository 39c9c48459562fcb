package dev.parley.client.errors;

/**
 * The function for the credential threw an exception, took too long, or returned no credential; nothing was sent. The
 * cause is the function's own exception.
 */
public final class CredentialFailedException extends ParleyException {
    public CredentialFailedException(Failure failure, Throwable cause) {
        super(failure);
        initCause(cause);
    }
}
