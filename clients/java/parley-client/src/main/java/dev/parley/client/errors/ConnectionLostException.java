package dev.parley.client.errors;

import java.util.Map;
import java.util.Optional;

/**
 * A reply that was accepted could no longer be followed; it may still be running. {@code client.resume(error.replyId(),
 * error.sequence())} goes on where {@link #text} ends.
 */
public final class ConnectionLostException extends UnavailableException {
    private final String replyId;
    private final int sequence;
    private final String text;

    public ConnectionLostException(Failure cause, String replyId, int sequence, String text) {
        super(new Failure(cause.message(), cause.reason(), cause.code(), true, Optional.empty(), Map.of()));
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
