package dev.parley.spring.web;

import dev.parley.client.ReplyEvent;
import dev.parley.client.ReplyEvent.Accepted;
import dev.parley.client.ReplyEvent.Finished;
import dev.parley.client.ReplyEvent.Reconnecting;
import dev.parley.client.ReplyEvent.Snapshot;
import dev.parley.client.ReplyEvent.Text;
import dev.parley.client.ReplyStream;
import dev.parley.client.errors.LimitExceededException;
import java.util.Optional;

/** Applies a mapping to one stream. It remembers the text that was sent, for snapshots. Not thread-safe. */
final class Translation {
    private static final Refusal REPLACED = Refusal.of(
            502, "TEXT_REPLACED", "Part of this answer was replaced on the server. Reload the conversation to read it.");

    private final ReplyMapping mapping;
    private final ReplyStream stream;
    private final StringBuilder sent = new StringBuilder();
    private boolean replaced;

    Translation(ReplyMapping mapping, ReplyStream stream) {
        this.mapping = mapping;
        this.stream = stream;
    }

    /**
     * Whether the event comes before the acceptance, which decides the status of the response. Throws the error of a
     * limit: a browser should learn of it at once, although the client would wait.
     */
    static boolean comesBeforeAcceptance(ReplyEvent event) {
        if (event instanceof Reconnecting cut && cut.error() instanceof LimitExceededException limit) {
            throw limit;
        }
        return event instanceof Reconnecting;
    }

    Optional<Object> of(ReplyEvent event) { return Optional.ofNullable(map(event)); }

    Optional<Object> failure(RuntimeException cause) {
        return Optional.ofNullable(mapping.failed(Refusal.of(cause), cause, stream));
    }

    private Object map(ReplyEvent event) {
        if (event instanceof Finished end) {
            return replaced ? mapping.failed(REPLACED, REPLACED.exception(), stream) : mapping.finished(end, stream);
        } else if (event instanceof Accepted accepted) {
            return mapping.accepted(accepted, stream);
        } else if (event instanceof Reconnecting cut) {
            return mapping.waiting(cut, stream);
        } else if (event instanceof Text piece && !replaced) {
            return append(piece);
        } else if (event instanceof Snapshot whole && !replaced) {
            return replace(whole);
        }
        return null;
    }

    private Object append(Text piece) {
        sent.append(piece.text());
        return mapping.text(piece, stream);
    }

    private Object replace(Snapshot whole) {
        Object own = mapping.snapshot(whole, stream);
        if (own != null) {
            return own;
        }
        if (!whole.text().startsWith(sent.toString())) {
            replaced = true;
            return null;
        }
        String rest = whole.text().substring(sent.length());
        return rest.isEmpty() ? null : append(new Text(rest));
    }
}
