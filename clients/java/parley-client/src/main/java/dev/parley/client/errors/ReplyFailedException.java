package dev.parley.client.errors;

import dev.parley.v1.Failed;
import dev.parley.v1.Usage;

/**
 * The reply was accepted and then failed. If {@code retryable}, a new request without text and with
 * {@code replace_message_id} set to {@code messageId} generates the answer again without repeating the user's message.
 */
public final class ReplyFailedException extends ParleyException {
    private final String text;
    private final String replyId;
    private final String messageId;
    private final transient Usage usage;
    private final String model;
    private final String provider;

    public ReplyFailedException(Failure failure) {
        this(failure, "", "", "", Failed.getDefaultInstance());
    }

    public ReplyFailedException(Failure failure, String text, String replyId, String messageId, Failed chunk) {
        super(failure);
        this.text = text;
        this.replyId = replyId;
        this.messageId = messageId;
        this.usage = chunk.getUsage();
        this.model = chunk.getModel();
        this.provider = chunk.getProvider();
    }

    /** The partial text. */
    public String text() { return text; }

    public String replyId() { return replyId; }

    /** The message for the answer. */
    public String messageId() { return messageId; }

    /** The usage that the provider reported, or an estimate. */
    public Usage usage() { return usage; }

    /** The alias that was asked last; after a failover, not the requested one. */
    public String model() { return model; }

    /** The provider that was asked last. */
    public String provider() { return provider; }
}
