package dev.parley.client;

import dev.parley.client.errors.ParleyException;
import dev.parley.v1.Reply;
import dev.parley.v1.Usage;
import java.time.Duration;
import java.util.List;

/** What a stream of a reply yields. A reader ignores the kinds that it has no use for. */
public sealed interface ReplyEvent {
    /**
     * The user's message and the reply are durable. Comes once, first, however often the stream is resumed.
     *
     * @param messageId the message that will hold the answer
     * @param replayed whether an earlier call with the same {@code requestId} had started the reply
     */
    record Accepted(
            String replyId,
            String conversationId,
            String messageId,
            List<String> inputMessageIds,
            String model,
            boolean replayed)
            implements ReplyEvent {}

    /** Text to append to the answer: whole code points, never half an emoji. */
    record Text(String text) implements ReplyEvent {}

    /** A piece of the model's reasoning, where it was asked for. */
    record Reasoning(String text) implements ReplyEvent {}

    /**
     * A tool call, or a piece of one: {@code id} and {@code name} come with the first piece of an {@code index},
     * {@code arguments} (JSON) are to be joined.
     */
    record ToolCall(int index, String id, String name, String arguments) implements ReplyEvent {}

    /** Tokens counted so far: a total, not an increment. */
    record UsageUpdate(Usage usage) implements ReplyEvent {}

    /** Replaces everything so far: {@code text} is the whole answer up to here. */
    record Snapshot(String text, Reply reply) implements ReplyEvent {}

    /**
     * The call was cut; the stream goes on after {@code delay}, without loss or repetition. {@code attempt} counts from
     * 1.
     */
    record Reconnecting(int attempt, Duration delay, ParleyException error) implements ReplyEvent {}

    /**
     * The end of a reply that completed or was cancelled, and the last event.
     *
     * @param reason the name of a {@code FinishReason}; one newer than this client reads OTHER
     * @param text the whole answer, from the stream's starting point on
     */
    record Finished(String reason, String text, String model, String cancelReason, Usage usage) implements ReplyEvent {}
}
