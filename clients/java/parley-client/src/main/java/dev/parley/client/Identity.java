package dev.parley.client;

import io.grpc.Metadata;

/** Who calls: a credential, and the end user it acts for; empty is none. */
record Identity(String apiKey, String endUser) {
    static final Identity NOBODY = new Identity("", "");
    private static final Metadata.Key<String> AUTHORIZATION =
            Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
    private static final Metadata.Key<String> END_USER = Metadata.Key.of("x-end-user", Metadata.ASCII_STRING_MARSHALLER);

    Identity {
        apiKey = checked("authorization", apiKey);
        endUser = checked("x-end-user", endUser);
    }

    Identity withApiKey(String other) { return new Identity(other, endUser); }

    Identity withEndUser(String other) { return new Identity(apiKey, other); }

    /** What each call carries. */
    Metadata metadata() {
        Metadata metadata = new Metadata();
        if (!apiKey.isEmpty()) {
            metadata.put(AUTHORIZATION, "Bearer " + apiKey);
        }
        if (!endUser.isEmpty()) {
            metadata.put(END_USER, endUser);
        }
        return metadata;
    }

    private static String checked(String name, String value) {
        if (value != null && !value.chars().allMatch(c -> c >= ' ' && c <= '~')) {
            throw new IllegalArgumentException(name + ": gRPC metadata takes printable ASCII alone");
        }
        return value == null ? "" : value;
    }
}
