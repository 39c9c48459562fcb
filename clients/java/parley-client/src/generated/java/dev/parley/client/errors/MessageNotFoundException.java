// Generated from protos/parley/v1/errors.proto by tools/clients. Do not edit: `make gen`.
package dev.parley.client.errors;

/** No such message in the conversation. */
public final class MessageNotFoundException extends NotFoundException {
    public MessageNotFoundException(Failure failure) { super(failure); }
}
