package dev.parley.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** The bounds of the delays, and when retries stop. */
class PatienceTest {
    private long now;

    private Patience patience(Duration maxElapsed, double chance) {
        return new Patience(new Backoff(Duration.ofMillis(100), Duration.ofSeconds(5), maxElapsed), () -> now, () -> chance);
    }

    @ParameterizedTest
    @ValueSource(doubles = {0, 0.25, 0.999})
    void eachDelayLiesBetweenHalfAndTheWholeOfItsStep(double chance) {
        Patience patience = patience(Duration.ofDays(1), chance);
        for (int attempt = 0; attempt < 2000; attempt++) {
            long delay = patience.failed(Optional.empty(), true).orElseThrow().toNanos();
            double whole = Math.min(1e8 * Math.pow(2, Math.min(attempt, 64)), 5e9);
            assertTrue(whole / 2 <= delay && delay <= whole, "attempt " + attempt + ": " + delay);
        }
    }

    @Test
    void retriesStopAfterTheTimeWithoutProgress() {
        Patience patience = patience(Duration.ofSeconds(10), 1);
        List<Long> delays = new ArrayList<>();
        for (var delay = patience.failed(Optional.empty(), true); delay.isPresent(); delay = patience.failed(Optional.empty(), true)) {
            delays.add(delay.get().toMillis());
            now += delay.get().toNanos();
        }
        assertEquals(List.of(100L, 200L, 400L, 800L, 1600L, 3200L), delays);
        patience.progressed();
        assertEquals(Optional.of(Duration.ofMillis(100)), patience.failed(Optional.empty(), true));
    }

    @Test
    void retryAfterIsALowerBoundOfTheDelay() {
        Patience patience = patience(Duration.ofSeconds(10), 1);
        assertEquals(Optional.of(Duration.ofSeconds(3)), patience.failed(Optional.of(Duration.ofSeconds(3)), true));
        assertEquals(Optional.empty(), patience.failed(Optional.of(Duration.ofMinutes(1)), true));
    }

    @Test
    void aClientThatNeverReachedAServerStopsAfterFiveSeconds() {
        Patience patience = patience(Duration.ofDays(1), 1);
        assertEquals(Duration.ofSeconds(5), patience.unreached());
        now = 4_900_000_000L;
        assertEquals(Optional.of(Duration.ofMillis(100)), patience.failed(Optional.empty(), false));
        assertEquals(Duration.ofMillis(100), patience.unreached());
        assertEquals(Optional.empty(), patience.failed(Optional.empty(), false));
        assertEquals(Optional.of(Duration.ofMillis(200)), patience.failed(Optional.empty(), true));
    }

    @Test
    void aMaxElapsedOfZeroDisablesRetries() {
        assertEquals(Optional.empty(), patience(Duration.ZERO, 1).failed(Optional.empty(), true));
    }

    @Test
    void anInvalidBackoffIsRejected() {
        assertThrows(IllegalArgumentException.class, () -> new Backoff(Duration.ZERO, Duration.ZERO, Duration.ZERO));
    }
}
