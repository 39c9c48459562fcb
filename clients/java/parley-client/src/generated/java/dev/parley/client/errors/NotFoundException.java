// Generated from protos/parley/v1/errors.proto by tools/clients. Do not edit: `make gen`.
package dev.parley.client.errors;

/** No such thing, or somebody else's. */
public class NotFoundException extends ParleyException {
    public NotFoundException(Failure failure) { super(failure); }
}
