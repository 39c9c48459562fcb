package dev.parley.client.errors;

/** Another reply runs in the conversation; metadata {@code reply_id} says which. */
public final class ReplyInProgressException extends ParleyException {
    public ReplyInProgressException(Failure failure) { super(failure); }

    /** The reply that runs; empty where the server did not say. */
    public String replyId() { return metadata().getOrDefault("reply_id", ""); }
}
