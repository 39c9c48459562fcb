package dev.parley.client;

import java.time.Duration;

/**
 * Exponential backoff with jitter. The n-th delay is random between 50 and 100 % of min(first · 2ⁿ, max); the server's
 * {@code retry_after} is a lower bound. A client that has never reached a server stops after 5 seconds.
 *
 * @param first the first delay
 * @param max the longest delay
 * @param maxElapsed when retries stop, after the first failure since the last progress; zero disables retries
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
