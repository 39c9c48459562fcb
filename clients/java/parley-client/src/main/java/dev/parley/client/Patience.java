package dev.parley.client;

import java.time.Duration;
import java.util.Optional;
import java.util.concurrent.ThreadLocalRandom;
import java.util.function.DoubleSupplier;
import java.util.function.LongSupplier;

/** Applies a {@link Backoff} to the failures of one call or stream. Not thread-safe. */
final class Patience {
    /** Limit for a client that has never reached a server, since the address may be wrong. */
    private static final Duration UNREACHED = Duration.ofSeconds(5);

    private final Backoff backoff;
    private final LongSupplier nanoClock;
    private final DoubleSupplier random;
    /** Null before the first attempt since the last progress. */
    private Long tryingSince;
    /** Null before the first failure since the last progress. */
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

    /** Starts an attempt of a client that has never reached a server; returns how long it may take. */
    Duration unreached() {
        long now = nanoClock.getAsLong();
        tryingSince = tryingSince == null ? now : tryingSince;
        Duration left = UNREACHED.minusNanos(now - tryingSince);
        return left.isNegative() ? Duration.ZERO : left;
    }

    /** Resets the count, since something new was received. */
    void progressed() {
        tryingSince = null;
        failingSince = null;
        attempts = 0;
    }

    /**
     * Returns how long to wait before the next attempt, or empty to stop. {@code reached}: a server was ever reached.
     */
    Optional<Duration> failed(Optional<Duration> retryAfter, boolean reached) {
        long now = nanoClock.getAsLong();
        failingSince = failingSince == null ? now : failingSince;
        double whole = Math.min(backoff.first().toNanos() * Math.pow(2, attempts), backoff.max().toNanos());
        var jittered = Duration.ofMillis(Math.round(whole * (0.5 + 0.5 * random.getAsDouble()) / 1e6));
        Duration delay = retryAfter.filter(asked -> asked.compareTo(jittered) > 0).orElse(jittered);
        if (delay.plusNanos(now - failingSince).compareTo(backoff.maxElapsed()) > 0) {
            return Optional.empty();
        }
        if (!reached && delay.compareTo(unreached()) > 0) {
            return Optional.empty();
        }
        attempts++;
        return Optional.of(delay);
    }
}
