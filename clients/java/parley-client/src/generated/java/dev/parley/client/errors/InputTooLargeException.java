// Generated from protos/parley/v1/errors.proto by tools/clients. Do not edit: `make gen`.
package dev.parley.client.errors;

/** An image, a message or a label is over its limit; metadata {@code limit} names the limit. */
public final class InputTooLargeException extends InvalidRequestException {
    public InputTooLargeException(Failure failure) { super(failure); }
}
