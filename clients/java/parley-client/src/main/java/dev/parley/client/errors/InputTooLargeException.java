package dev.parley.client.errors;

/** An image, a message or a label is over its limit; metadata {@code limit} says which. */
public final class InputTooLargeException extends InvalidRequestException {
    public InputTooLargeException(Failure failure) { super(failure); }
}
