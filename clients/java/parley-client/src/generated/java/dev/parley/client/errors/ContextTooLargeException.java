// Generated from protos/parley/v1/errors.proto by tools/clients. Do not edit: `make gen`.
package dev.parley.client.errors;

/** The new input itself is larger than the model's context. */
public final class ContextTooLargeException extends InvalidRequestException {
    public ContextTooLargeException(Failure failure) { super(failure); }
}
