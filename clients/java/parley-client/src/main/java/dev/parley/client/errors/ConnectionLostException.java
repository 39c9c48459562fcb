package dev.parley.client.errors;

/**
 * The client could not reconnect to the stream of an accepted reply, which may still be running.
 * {@code client.resume(replyId, sequence)} continues where {@code text} ends.
 */
public final class ConnectionLostException extends UnavailableException {
    private final String replyId;
    private final int sequence;
    private final String text;

    public ConnectionLostException(Failure failure) {
        this(failure, "", 0, "");
    }

    public ConnectionLostException(Failure failure, String replyId, int sequence, String text) {
        super(failure);
        this.replyId = replyId;
        this.sequence = sequence;
        this.text = text;
    }

    public String replyId() { return replyId; }

    /** The cursor: the sequence of the last chunk that was read. */
    public int sequence() { return sequence; }

    /** The text that was read. */
    public String text() { return text; }
}
