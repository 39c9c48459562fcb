// Generated from protos/parley/v1/errors.proto by tools/clients. Do not edit: `make gen`.
package dev.parley.client.errors;

/** The resource has changed since its etag was read. */
public final class EtagMismatchException extends ParleyException {
    public EtagMismatchException(Failure failure) { super(failure); }
}
