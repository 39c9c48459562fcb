package dev.parley.client;

import dev.parley.client.errors.ParleyException;
import java.time.Duration;

/** Is told what happens to a client's streams, for metrics. Its methods are called in between events: they must be quick. */
public interface ParleyObserver {
    /** A stream has brought its first text, so long after it was started. */
    default void firstText(Duration sinceStart) {}

    /** A stream was cut, and goes on by itself. */
    default void reconnecting(ParleyException error) {}

    /**
     * A stream is over.
     *
     * @param outcome the reason of its {@link ReplyEvent.Finished}, the reason (or else the status code) of its failure, or
     *     LEFT where its reader has left it
     */
    default void streamEnded(String outcome, Duration sinceStart) {}
}
