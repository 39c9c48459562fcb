package dev.parley.client.errors;

/** No such image, or it belongs to another user. */
public final class ImageNotFoundException extends NotFoundException {
    public ImageNotFoundException(Failure failure) { super(failure); }
}
