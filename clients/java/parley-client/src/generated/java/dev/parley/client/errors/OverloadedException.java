// Generated from protos/parley/v1/errors.proto by tools/clients. Do not edit: `make gen`.
package dev.parley.client.errors;

/** The server is at its limit of running replies, or too busy. */
public final class OverloadedException extends UnavailableException {
    public OverloadedException(Failure failure) { super(failure); }
}
