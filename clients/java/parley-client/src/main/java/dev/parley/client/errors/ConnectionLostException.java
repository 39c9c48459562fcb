package dev.parley.client.errors;

/**
 * A reply could no longer be followed; it may still be running. To resume it after {@code sequence} goes on where
 * {@code text} ends.
 */
public final class ConnectionLostException extends UnavailableException {
    private final String replyId;
    private final int sequence;
    private final String text;

    public ConnectionLostException(Failure failure) {
        this(failure, "", 0, "");
    }

    public ConnectionLostException(
            Failure failure, String replyId, int sequence, String text) {
        super(failure);
        this.replyId = replyId;
        this.sequence = sequence;
        this.text = text;
    }

    /** The reply, to resume. */
    public String replyId() { return replyId; }

    /** The cursor, to resume after. */
    public int sequence() { return sequence; }

    /** The answer as far as it was read. */
    public String text() { return text; }
}
