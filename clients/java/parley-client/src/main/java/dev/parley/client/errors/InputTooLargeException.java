package dev.parley.client.errors;

/** Something in the request is over its limit; metadata {@code limit} names the limit. */
public final class InputTooLargeException extends InvalidRequestException {
    public InputTooLargeException(Failure failure) { super(failure); }
}
