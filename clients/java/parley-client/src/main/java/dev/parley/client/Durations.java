package dev.parley.client;

import java.time.Duration;

/** Converts durations between Java and protobuf. */
final class Durations {
    private static final long NANOS = 1_000_000_000;

    private Durations() {}

    static Duration of(com.google.protobuf.Duration proto) {
        return Duration.ofSeconds(proto.getSeconds(), proto.getNanos());
    }

    static com.google.protobuf.Duration nanos(long nanos) {
        return com.google.protobuf.Duration.newBuilder()
                .setSeconds(nanos / NANOS)
                .setNanos((int) (nanos % NANOS))
                .build();
    }
}
