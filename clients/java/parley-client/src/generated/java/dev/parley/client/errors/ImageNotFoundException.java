// Generated from protos/parley/v1/errors.proto by tools/clients. Do not edit: `make gen`.
package dev.parley.client.errors;

/** No such image, or it belongs to another user. */
public final class ImageNotFoundException extends NotFoundException {
    public ImageNotFoundException(Failure failure) { super(failure); }
}
