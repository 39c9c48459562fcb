// Generated from protos/parley/v1/errors.proto by tools/clients. Do not edit: `make gen`.
package dev.parley.client.errors;

/** No such reply, or it belongs to another user. */
public final class ReplyNotFoundException extends NotFoundException {
    public ReplyNotFoundException(Failure failure) { super(failure); }
}
