// Generated from protos/parley/v1/errors.proto by tools/clients. Do not edit: `make gen`.
package dev.parley.client.errors;

/** Another reply runs in the conversation; metadata {@code reply_id} has its id. */
public final class ReplyInProgressException extends ParleyException {
    public ReplyInProgressException(Failure failure) { super(failure); }

    /** The reply that runs; empty where the server did not say. */
    public String replyId() { return metadata().getOrDefault("reply_id", ""); }
}
