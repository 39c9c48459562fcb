package dev.parley.client;

import dev.parley.client.errors.Failure;
import io.grpc.Attributes;
import io.grpc.ClientTransportFilter;
import io.grpc.Status;
import java.util.Set;

/** Detects whether a channel has ever reached a server, and words the failures of unreachable servers. */
final class Reach extends ClientTransportFilter {
    /** The codes of a call without an answer from a server. */
    private static final Set<Status.Code> OF_TRANSPORT =
            Set.of(Status.Code.UNAVAILABLE, Status.Code.DEADLINE_EXCEEDED, Status.Code.CANCELLED);

    private final String address;
    private final boolean tls;
    private volatile boolean reached;

    Reach(String address, boolean tls) {
        this.address = address;
        this.tls = tls;
    }

    @Override
    public Attributes transportReady(Attributes attributes) {
        reached = true;
        return attributes;
    }

    boolean reached() { return reached; }

    /** Replaces a failure of the transport by one that names the server's address; returns others unchanged. */
    Failure explain(Failure failure) {
        boolean ofTransport = failure.reason().isEmpty() && OF_TRANSPORT.contains(failure.code());
        return !ofTransport || (reached && failure.code() != Status.Code.UNAVAILABLE) ? failure : unavailable();
    }

    /** Returns the failure of a call that cannot reach a server. */
    Failure unavailable() {
        String withTls = tls ? "; with TLS, the client must trust its certificate" : "";
        return Failure.unavailable(
                reached
                        ? "the Parley server at " + address + " cannot be reached"
                        : "no Parley server at " + address + "; start one with `parley serve`" + withTls,
                true);
    }
}
