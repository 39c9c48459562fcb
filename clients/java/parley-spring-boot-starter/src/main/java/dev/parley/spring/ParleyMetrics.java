package dev.parley.spring;

import dev.parley.client.ParleyObserver;
import dev.parley.client.errors.ParleyException;
import io.micrometer.core.instrument.MeterRegistry;
import io.micrometer.core.instrument.Timer;
import java.time.Duration;

/** Meters of streams: {@code parley.stream}, {@code parley.stream.first.text} and {@code parley.stream.reconnects}. */
final class ParleyMetrics implements ParleyObserver {
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
    public void firstText(Duration sinceStart) { firstText.record(sinceStart); }

    @Override
    public void reconnecting(ParleyException error) {
        registry.counter("parley.stream.reconnects", "code", error.code().name(), "reason", error.reason()).increment();
    }

    @Override
    public void streamEnded(String outcome, Duration sinceStart) {
        registry.timer("parley.stream", "outcome", outcome).record(sinceStart);
    }
}
