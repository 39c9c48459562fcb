// Generated from protos/parley/v1/errors.proto by tools/clients. Do not edit: `make gen`.
package dev.parley.client.errors;

/** The catalog has no model of this alias. */
public final class ModelNotFoundException extends NotFoundException {
    public ModelNotFoundException(Failure failure) { super(failure); }
}
