package dev.parley.client;

import dev.parley.client.errors.ParleyException;
import dev.parley.v1.Quota;
import dev.parley.v1.Reply;
import dev.parley.v1.Usage;
import java.time.Duration;
import java.util.List;
import java.util.Optional;

/** The events of a reply's stream. Readers can ignore the types that they do not use. */
public sealed interface ReplyEvent {
    /**
     * The user's message and the reply are stored. The first event, and sent only once even if the stream reconnects.
     *
     * @param messageId the message for the answer
     * @param replayed whether an earlier call with the same {@code request_id} started the reply
     * @param ignoredSettings the names of the sampling settings that the requested model does not take, such as
     *     "temperature"
     * @param quota the limit of which the least part is left; empty without limits, and for a reply that was accepted
     *     earlier
     */
    record Accepted(
            String replyId,
            String conversationId,
            String messageId,
            List<String> inputMessageIds,
            String model,
            boolean replayed,
            List<String> ignoredSettings,
            Optional<Quota> quota)
            implements ReplyEvent {}

    /** Text to append to the answer. It never splits a code point. */
    record Text(String text) implements ReplyEvent {}

    /** A piece of the model's reasoning; only with {@code stream_options.reasoning}. */
    record Reasoning(String text) implements ReplyEvent {}

    /**
     * A tool call, or a piece of one. The first piece of each {@code index} has {@code id} and {@code name}. The joined
     * {@code arguments} of all pieces are JSON.
     */
    record ToolCall(int index, String id, String name, String arguments) implements ReplyEvent {}

    /** The tokens so far, as a total. */
    record UsageUpdate(Usage usage) implements ReplyEvent {}

    /** Replaces all earlier content: {@code text} is the whole answer so far. */
    record Snapshot(String text, Reply reply) implements ReplyEvent {}

    /**
     * The call was cut. The stream continues after {@code delay} without loss or repetition. {@code attempt} counts
     * from 1.
     */
    record Reconnecting(int attempt, Duration delay, ParleyException error) implements ReplyEvent {}

    /**
     * The last event: the reply completed or was cancelled.
     *
     * @param reason the name of a {@code FinishReason}; OTHER if the client does not have it
     * @param text the whole answer, from the start of the stream
     * @param model the alias that served the reply; after a failover, not the requested one
     * @param provider the provider that served the reply
     */
    record Finished(String reason, String text, String model, String provider, String cancelReason, Usage usage)
            implements ReplyEvent {}
}
