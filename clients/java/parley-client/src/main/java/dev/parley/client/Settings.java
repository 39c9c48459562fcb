package dev.parley.client;

import java.time.Duration;

/** How a client goes about its calls; a time limit of zero is none. */
record Settings(
        Backoff backoff, Duration callTimeout, Duration silence, Duration attemptTimeout, ParleyObserver observer) {}
