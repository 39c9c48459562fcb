// Generated from protos/parley/v1/errors.proto by tools/clients. Do not edit: `make gen`.
package dev.parley.client.errors;

/** The server takes no more replies for now. */
public final class OverloadedException extends UnavailableException {
    public OverloadedException(Failure failure) { super(failure); }
}
