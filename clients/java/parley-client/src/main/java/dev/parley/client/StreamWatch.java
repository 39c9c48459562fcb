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
        if (started) {
            observer.streamEnded(outcome(transcript, failure), elapsed());
        }
    }

    private static String outcome(Transcript transcript, RuntimeException failure) {
        if (transcript.finished() != null) {
            return transcript.finished().reason();
        }
        if (failure instanceof ParleyException error) {
            return error.reason().isEmpty() ? error.code().name() : error.reason();
        }
        return "LEFT";
    }

    private Duration elapsed() { return Duration.ofNanos(System.nanoTime() - startedNanos); }
}
