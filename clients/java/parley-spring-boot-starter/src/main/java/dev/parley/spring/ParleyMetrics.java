package dev.parley.spring;

import dev.parley.client.ReplyEvent;
import dev.parley.client.ReplyEvent.Finished;
import dev.parley.client.ReplyEvent.Reconnecting;
import dev.parley.client.ReplyEvent.Text;
import dev.parley.client.ReplyListener;
import dev.parley.client.errors.ParleyException;
import io.micrometer.core.instrument.MeterRegistry;
import io.micrometer.core.instrument.Timer;
import java.util.function.Supplier;

/** The meters {@code parley.stream}, {@code parley.stream.first.text} and {@code parley.stream.reconnects}. */
final class ParleyMetrics implements Supplier<ReplyListener> {
    private final MeterRegistry registry;
    private final Timer firstText;

    ParleyMetrics(MeterRegistry registry) {
        this.registry = registry;
        this.firstText = Timer.builder("parley.stream.first.text")
                .description("From the start of a stream to its first text")
                .publishPercentileHistogram()
                .register(registry);
    }

    @Override
    public ReplyListener get() { return new OneStream(); }

    private final class OneStream implements ReplyListener {
        private final Timer.Sample sample = Timer.start(registry);
        private String outcome = "LEFT";
        private boolean hasText;

        @Override
        public void onEvent(ReplyEvent event) {
            if (event instanceof Reconnecting cut) {
                var error = cut.error();
                registry.counter("parley.stream.reconnects", "code", error.code().name(), "reason", error.reason())
                        .increment();
            } else if (event instanceof Text && !hasText) {
                hasText = true;
                sample.stop(firstText);
            } else if (event instanceof Finished end) {
                outcome = end.reason();
            }
        }

        @Override
        public void onError(RuntimeException failure) {
            if (failure instanceof ParleyException error) {
                outcome = error.reason().isEmpty() ? error.code().name() : error.reason();
            }
            onEnd();
        }

        /** The outcome is still LEFT if the reader closed the stream before its end. */
        @Override
        public void onEnd() { sample.stop(registry.timer("parley.stream", "outcome", outcome)); }
    }
}
