package dev.parley.client.errors;

import io.grpc.Status;
import java.time.Duration;
import java.util.Map;
import java.util.Optional;

/**
 * A call or a reply has failed. Every failure that a server or the network causes is one of these: the package's own
 * description draws them.
 */
public class ParleyException extends RuntimeException {
    private final transient Failure failure;

    public ParleyException(Failure failure) {
        super(failure.reason().isEmpty() ? failure.message() : failure.reason() + ": " + failure.message());
        this.failure = failure;
    }

    /** All that is known of the failure; its {@code message} is the message without the reason. */
    public Failure failure() { return failure; }

    /**
     * The name of a {@link dev.parley.v1.ErrorReason} without its prefix, or empty where the transport failed and no Parley
     * server spoke.
     */
    public String reason() { return failure.reason(); }

    /** The gRPC status code. */
    public Status.Code code() { return failure.code(); }

    /** Whether a new attempt may succeed. */
    public boolean retryable() { return failure.retryable(); }

    /** How long to wait before it, where the server said so. */
    public Optional<Duration> retryAfter() { return failure.retryAfter(); }

    /** Further facts of the reason, such as {@code limit} or {@code call_id}. */
    public Map<String, String> metadata() { return failure.metadata(); }

    /** Whether a status says what a lost terminal chunk would have said. */
    public boolean endsReply() {
        return !reason().isEmpty() && (this instanceof ReplyFailedException || this instanceof InternalErrorException);
    }
}
