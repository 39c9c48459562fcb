package dev.parley.client.errors;

import dev.parley.v1.Usage;

/**
 * The reply was accepted and then failed. Where {@code retryable}, a new request with {@code replaceMessageId} set to
 * {@code messageId} and no text tries again without repeating the user's message.
 */
public final class ReplyFailedException extends ParleyException {
    private final String text;
    private final String replyId;
    private final String messageId;
    private final transient Usage usage;

    public ReplyFailedException(Failure failure) {
        this(failure, "", "", "", Usage.getDefaultInstance());
    }

    public ReplyFailedException(
            Failure failure, String text, String replyId, String messageId, Usage usage) {
        super(failure);
        this.text = text;
        this.replyId = replyId;
        this.messageId = messageId;
        this.usage = usage;
    }

    /** What it had written. */
    public String text() { return text; }

    /** The reply. */
    public String replyId() { return replyId; }

    /** The message that would have held the answer. */
    public String messageId() { return messageId; }

    /** What the provider had counted, or an estimate. */
    public Usage usage() { return usage; }
}
