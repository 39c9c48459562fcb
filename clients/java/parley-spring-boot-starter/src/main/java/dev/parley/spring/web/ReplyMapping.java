package dev.parley.spring.web;

import dev.parley.client.ReplyEvent.Accepted;
import dev.parley.client.ReplyEvent.Finished;
import dev.parley.client.ReplyEvent.Reconnecting;
import dev.parley.client.ReplyEvent.Snapshot;
import dev.parley.client.ReplyEvent.Text;
import dev.parley.client.ReplyStream;

/**
 * Maps the events of a reply to those of an application, which are sent as JSON. Null sends nothing. The stream has the
 * ids, the cursor and the whole text at the time of the event.
 */
public interface ReplyMapping {
    default Object accepted(Accepted event, ReplyStream stream) { return null; }

    Object text(Text event, ReplyStream stream);

    /**
     * Returns an event that replaces the text so far. Without such an event, what a snapshot adds to the text is sent by
     * {@link #text}; after one that changes what was sent, nothing is sent until {@link #failed} with TEXT_REPLACED.
     */
    default Object snapshot(Snapshot event, ReplyStream stream) { return null; }

    /** The client reconnects to Parley. */
    default Object waiting(Reconnecting event, ReplyStream stream) { return null; }

    Object finished(Finished event, ReplyStream stream);

    /** The last event of a reply that failed or whose connection was lost; {@code cause} says which. */
    Object failed(Refusal error, RuntimeException cause, ReplyStream stream);
}
