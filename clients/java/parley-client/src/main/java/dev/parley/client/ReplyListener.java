package dev.parley.client;

/**
 * Takes the events of a {@link ReplyStream} as they come, on the client's callback threads, one call at a time. It must not
 * block: a client has one such thread per core (or the executor that it was built with) for all its streams.
 */
@FunctionalInterface
public interface ReplyListener {
    void onEvent(ReplyEvent event);

    /** The end, after {@link ReplyEvent.Finished} or after the stream was closed. */
    default void onEnd() {}

    /** The end of a stream that failed: see {@link ReplyStream} for what it may be. */
    default void onError(RuntimeException failure) {}
}
