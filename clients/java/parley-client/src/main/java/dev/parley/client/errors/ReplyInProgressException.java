package dev.parley.client.errors;

/** Another reply runs in the conversation. */
public final class ReplyInProgressException extends ParleyException {
    public ReplyInProgressException(Failure failure) { super(failure); }

    /** The reply that runs, to resume or to cancel; empty where the server did not say. */
    public String replyId() {
        return metadata().getOrDefault("reply_id", "");
    }
}
