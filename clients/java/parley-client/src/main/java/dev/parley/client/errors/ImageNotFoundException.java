package dev.parley.client.errors;

/** No such image, or somebody else's. */
public final class ImageNotFoundException extends NotFoundException {
    public ImageNotFoundException(Failure failure) { super(failure); }
}
