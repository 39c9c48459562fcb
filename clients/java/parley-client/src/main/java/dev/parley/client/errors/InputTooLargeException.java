package dev.parley.client.errors;

/** An image, a message or a label is over its limit; metadata {@code limit} names the limit. */
public final class InputTooLargeException extends InvalidRequestException {
    public InputTooLargeException(Failure failure) { super(failure); }
}
