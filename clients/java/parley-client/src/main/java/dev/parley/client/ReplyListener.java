package dev.parley.client;

/**
 * Receives the events of a {@link ReplyStream} on the client's callback threads, one call at a time. It must not block:
 * a client has one such thread per core, or the executor that it was built with, for all its streams.
 */
@FunctionalInterface
public interface ReplyListener {
    void onEvent(ReplyEvent event);

    /** Called at the end, after {@link ReplyEvent.Finished} or after the stream was closed. */
    default void onEnd() {}

    /** Called at the end of a failed stream; {@link ReplyStream} lists the exceptions. */
    default void onError(RuntimeException failure) {}
}
