package dev.parley.client.errors;

/** The new input itself is larger than the model's context. */
public final class ContextTooLargeException extends InvalidRequestException {
    public ContextTooLargeException(Failure failure) { super(failure); }
}
