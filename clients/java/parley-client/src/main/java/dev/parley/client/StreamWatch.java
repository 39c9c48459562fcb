package dev.parley.client;

import dev.parley.client.ReplyEvent.Reconnecting;
import dev.parley.client.ReplyEvent.Text;
import dev.parley.client.errors.ParleyException;
import java.time.Duration;

/** Tells the client's observer about one stream. */
final class StreamWatch {
    private final ParleyObserver observer;
    private long startedNanos;
    private boolean started;
    private boolean spoke;

    StreamWatch(ParleyObserver observer) {
        this.observer = observer;
    }

    void started() {
        started = true;
        startedNanos = System.nanoTime();
    }

    void event(ReplyEvent event) {
        if (event instanceof Reconnecting cut) {
            observer.reconnecting(cut.error());
        } else if (event instanceof Text && !spoke) {
            spoke = true;
            observer.firstText(elapsed());
        }
    }

    void ended(Transcript transcript, RuntimeException failure) {
        if (!started) {
            return;
        }
        String outcome = "LEFT";
        if (transcript.finished() != null) {
            outcome = transcript.finished().reason();
        } else if (failure instanceof ParleyException error) {
            outcome = error.reason().isEmpty() ? error.code().name() : error.reason();
        }
        observer.streamEnded(outcome, elapsed());
    }

    private Duration elapsed() {
        return Duration.ofNanos(System.nanoTime() - startedNanos);
    }
}
