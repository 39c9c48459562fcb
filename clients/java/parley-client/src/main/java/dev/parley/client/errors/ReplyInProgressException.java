package dev.parley.client.errors;

/** Another reply runs in the conversation; metadata {@code reply_id} has its id. */
public final class ReplyInProgressException extends ParleyException {
    public ReplyInProgressException(Failure failure) { super(failure); }

    /** The id of the running reply; empty if the server did not send it. */
    public String replyId() { return metadata().getOrDefault("reply_id", ""); }
}
