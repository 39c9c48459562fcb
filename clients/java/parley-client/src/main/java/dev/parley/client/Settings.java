package dev.parley.client;

import io.grpc.Metadata;
import java.time.Duration;
import java.util.function.Supplier;

/**
 * Identity, backoff and time limits of a client. Empty strings and a time limit of zero mean none. {@code apiKey} is
 * empty if a {@link CredentialSource} gives it.
 */
record Settings(
        String apiKey,
        String endUser,
        Backoff backoff,
        Duration callTimeout,
        Duration silence,
        Duration attemptTimeout,
        Supplier<? extends ReplyListener> observer) {

    Settings actingFor(String other) {
        String user = checked("x-end-user", other);
        return new Settings(apiKey, user, backoff, callTimeout, silence, attemptTimeout, observer);
    }

    /** The metadata that is the same for each call. */
    Metadata metadata() { return metadata(apiKey, endUser); }

    /** Returns metadata of one call. Throws IllegalArgumentException if metadata cannot contain a value. */
    static Metadata metadata(String credential, String endUser) {
        var metadata = new Metadata();
        put(metadata, "authorization", credential.isEmpty() ? "" : "Bearer " + credential);
        put(metadata, "x-end-user", endUser);
        return metadata;
    }

    /**
     * Returns the value, or an empty string for null. Throws IllegalArgumentException if metadata cannot contain it.
     */
    static String checked(String header, String value) {
        if (value != null && !value.chars().allMatch(c -> c >= ' ' && c <= '~')) {
            throw new IllegalArgumentException(header + ": only printable ASCII is allowed in gRPC metadata");
        }
        return value == null ? "" : value;
    }

    private static void put(Metadata metadata, String header, String value) {
        if (!value.isEmpty()) {
            metadata.put(Metadata.Key.of(header, Metadata.ASCII_STRING_MARSHALLER), checked(header, value));
        }
    }
}
