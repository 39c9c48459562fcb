package dev.parley.client.errors;

/** No such image. */
public final class ImageNotFoundException extends NotFoundException {
    public ImageNotFoundException(Failure failure) { super(failure); }
}
