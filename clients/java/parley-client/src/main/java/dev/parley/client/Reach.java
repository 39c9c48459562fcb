package dev.parley.client;

import dev.parley.client.errors.Failure;
import io.grpc.Attributes;
import io.grpc.ClientTransportFilter;
import io.grpc.Status;
import java.util.Set;

/** Whether a server has ever been reached over one channel, and how failures say that it cannot be. */
final class Reach extends ClientTransportFilter {
    /** The codes of a call that has got no answer. */
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

    /** In place of a transport's own words, that no server is there; other failures as they are. */
    Failure explain(Failure failure) {
        boolean ofTransport = failure.reason().isEmpty() && OF_TRANSPORT.contains(failure.code());
        return !ofTransport || (reached && failure.code() != Status.Code.UNAVAILABLE) ? failure : unavailable();
    }

    /** What a call fails with where no server can be asked. */
    Failure unavailable() {
        String withTls = tls ? "; with TLS, the client must trust its certificate" : "";
        return Failure.unavailable(
                reached
                        ? "the Parley server at " + address + " cannot be reached"
                        : "no Parley server at " + address + "; start one with `parley serve`" + withTls,
                true);
    }
}
