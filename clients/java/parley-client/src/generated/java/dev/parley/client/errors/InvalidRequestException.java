// Generated from protos/parley/v1/errors.proto by tools/clients. Do not edit: `make gen`.
package dev.parley.client.errors;

/** The request breaks the contract. */
public class InvalidRequestException extends ParleyException {
    public InvalidRequestException(Failure failure) { super(failure); }
}
