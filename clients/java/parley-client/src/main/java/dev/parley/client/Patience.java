package dev.parley.client;

import java.time.Duration;
import java.util.Optional;
import java.util.concurrent.ThreadLocalRandom;
import java.util.function.DoubleSupplier;
import java.util.function.LongSupplier;

/** Counts the failures of one call or stream against its {@link Backoff}. Not thread-safe. */
final class Patience {
    private final Backoff backoff;
    private final LongSupplier nanoClock;
    private final DoubleSupplier random;
    /** Null while nothing has failed. */
    private Long failingSince;
    private int attempts;

    Patience(Backoff backoff) {
        this(backoff, System::nanoTime, () -> ThreadLocalRandom.current().nextDouble());
    }

    Patience(Backoff backoff, LongSupplier nanoClock, DoubleSupplier random) {
        this.backoff = backoff;
        this.nanoClock = nanoClock;
        this.random = random;
    }

    /** Failures since the last progress. */
    int attempts() { return attempts; }

    /** Something new has come: the count starts afresh. */
    void progressed() {
        failingSince = null;
        attempts = 0;
    }

    /** How long to wait before the next attempt; empty means give up. */
    Optional<Duration> failed(Optional<Duration> retryAfter) {
        long now = nanoClock.getAsLong();
        failingSince = failingSince == null ? now : failingSince;
        double whole = Math.min(backoff.first().toNanos() * Math.pow(2, attempts), backoff.max().toNanos());
        var jittered = Duration.ofNanos((long) (whole * (0.5 + 0.5 * random.getAsDouble())));
        Duration delay = retryAfter.filter(asked -> asked.compareTo(jittered) > 0).orElse(jittered);
        if (delay.plusNanos(now - failingSince).compareTo(backoff.maxElapsed()) > 0) {
            return Optional.empty();
        }
        attempts++;
        return Optional.of(delay);
    }
}
