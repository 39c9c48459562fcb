package dev.parley.client.errors;

/** The model cannot take this input, such as an image. */
public final class UnsupportedInputException extends InvalidRequestException {
    public UnsupportedInputException(Failure failure) { super(failure); }
}
