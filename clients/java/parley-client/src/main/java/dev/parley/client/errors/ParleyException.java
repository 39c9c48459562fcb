package dev.parley.client.errors;

import io.grpc.Status;
import java.time.Duration;
import java.util.Map;
import java.util.Optional;

/**
 * Base class of the exceptions for failed calls and replies, caused by a server or by the network. The description of
 * this package shows all of them.
 */
public class ParleyException extends RuntimeException {
    private final transient Failure failure;

    public ParleyException(Failure failure) {
        super(failure.reason().isEmpty() ? failure.message() : failure.reason() + ": " + failure.message());
        this.failure = failure;
    }

    /** All facts of the failure. Its {@code message} does not contain the reason and can be shown to users. */
    public Failure failure() { return failure; }

    /**
     * The name of a {@link dev.parley.v1.ErrorReason} without its prefix; empty if the failure came from the transport
     * and not from a Parley server.
     */
    public String reason() { return failure.reason(); }

    /** The gRPC status code. */
    public Status.Code code() { return failure.code(); }

    /** Whether a new attempt may succeed. */
    public boolean retryable() { return failure.retryable(); }

    /** How long to wait before it, if the server sent it. */
    public Optional<Duration> retryAfter() { return failure.retryAfter(); }

    /** Details of the reason, such as {@code limit} or {@code call_id}. */
    public Map<String, String> metadata() { return failure.metadata(); }

    /** Whether this is the end of the reply, as in its terminal chunk. */
    public boolean endsReply() {
        return !reason().isEmpty() && (this instanceof ReplyFailedException || this instanceof InternalErrorException);
    }
}
