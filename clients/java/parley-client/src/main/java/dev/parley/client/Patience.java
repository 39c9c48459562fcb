package dev.parley.client;

import java.time.Duration;
import java.util.Optional;
import java.util.concurrent.ThreadLocalRandom;
import java.util.function.DoubleSupplier;
import java.util.function.LongSupplier;

/** Counts the failures of one call or stream against its {@link Backoff}. Not thread-safe. */
final class Patience {
    /** A client that has never reached a server gives up after so long: the address is wrong, or no server runs. */
    private static final Duration UNREACHED = Duration.ofSeconds(5);

    private final Backoff backoff;
    private final LongSupplier nanoClock;
    private final DoubleSupplier random;
    /** Null before the first attempt since the last progress. */
    private Long tryingSince;
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

    /** Begins an attempt of a client that has never reached a server: how long it may take. */
    Duration unreached() {
        long now = nanoClock.getAsLong();
        tryingSince = tryingSince == null ? now : tryingSince;
        Duration left = UNREACHED.minusNanos(now - tryingSince);
        return left.isNegative() ? Duration.ZERO : left;
    }

    /** Something new has come: the count starts afresh. */
    void progressed() {
        tryingSince = null;
        failingSince = null;
        attempts = 0;
    }

    /** How long to wait before the next attempt; empty means give up. Reached: whether a server ever was. */
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
