package dev.parley.client;

import io.grpc.Metadata;
import java.time.Duration;
import java.util.function.Supplier;

/** Who calls, and how a client goes about its calls; an empty name is none, and so is a time limit of zero. */
record Settings(
        String apiKey,
        String endUser,
        Backoff backoff,
        Duration callTimeout,
        Duration silence,
        Duration attemptTimeout,
        Supplier<? extends ReplyListener> observer) {

    Settings actingFor(String other) {
        return new Settings(
                apiKey,
                checked("x-end-user", other),
                backoff,
                callTimeout,
                silence,
                attemptTimeout,
                observer);
    }

    /** What each call carries. */
    Metadata metadata() {
        var metadata = new Metadata();
        put(metadata, "authorization", apiKey.isEmpty() ? "" : "Bearer " + apiKey);
        put(metadata, "x-end-user", endUser);
        return metadata;
    }

    /** A value that metadata can carry; null is none. */
    static String checked(String header, String value) {
        if (value != null && !value.chars().allMatch(c -> c >= ' ' && c <= '~')) {
            throw new IllegalArgumentException(header + ": gRPC metadata takes printable ASCII alone");
        }
        return value == null ? "" : value;
    }

    private static void put(Metadata metadata, String header, String value) {
        if (!value.isEmpty()) {
            metadata.put(Metadata.Key.of(header, Metadata.ASCII_STRING_MARSHALLER), value);
        }
    }
}
