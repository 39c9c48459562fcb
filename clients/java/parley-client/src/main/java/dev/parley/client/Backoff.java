package dev.parley.client;

import java.time.Duration;

/**
 * How a client waits between attempts, and when it gives up. The n-th delay lies between half and the whole of
 * min(first · 2ⁿ, max); what the server asks for is a lower bound.
 *
 * @param first the first delay
 * @param max the longest delay
 * @param maxElapsed since the first failure without progress in between; zero never tries again
 */
public record Backoff(Duration first, Duration max, Duration maxElapsed) {
    /** 0.1 s, 5 s and 60 s. */
    public static final Backoff DEFAULT = new Backoff(Duration.ofMillis(100), Duration.ofSeconds(5), Duration.ofMinutes(1));

    public Backoff {
        if (first.isNegative() || first.isZero() || max.compareTo(first) < 0 || maxElapsed.isNegative()) {
            throw new IllegalArgumentException("a backoff needs 0 < first <= max and maxElapsed >= 0");
        }
    }
}
