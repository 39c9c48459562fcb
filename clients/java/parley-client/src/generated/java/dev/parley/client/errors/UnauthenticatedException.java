// Generated from protos/parley/v1/errors.proto by tools/clients. Do not edit: `make gen`.
package dev.parley.client.errors;

/** The credential is missing or wrong. */
public final class UnauthenticatedException extends ParleyException {
    public UnauthenticatedException(Failure failure) { super(failure); }
}
