package dev.parley.client.errors;

import com.google.protobuf.InvalidProtocolBufferException;
import dev.parley.v1.ReplyError;
import io.grpc.Metadata;
import io.grpc.Status;
import java.time.Duration;
import java.util.EnumSet;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/** What is known of a failed call or reply, and {@linkplain #toException which exception} it is. */
public record Failure(
        String message,
        String reason,
        Status.Code code,
        boolean retryable,
        Optional<Duration> retryAfter,
        Map<String, String> metadata) {

    private static final Metadata.Key<byte[]> TRAILER =
            Metadata.Key.of("parley-error-bin", Metadata.BINARY_BYTE_MARSHALLER);
    private static final Set<Status.Code> RETRYABLE =
            EnumSet.of(Status.Code.UNAVAILABLE, Status.Code.CANCELLED, Status.Code.DEADLINE_EXCEEDED);
    /** What proxies, a stopping server and RST_STREAM are seen to produce, beside UNAVAILABLE. */
    private static final Set<Status.Code> CUTS =
            EnumSet.of(Status.Code.CANCELLED, Status.Code.INTERNAL, Status.Code.UNKNOWN);

    /** The failure of a call that ended with a status other than OK. */
    public static Failure of(Status status, Metadata trailers) {
        byte[] trailer = trailers == null ? null : trailers.get(TRAILER);
        if (trailer != null) {
            try {
                return of(ReplyError.parseFrom(trailer));
            } catch (InvalidProtocolBufferException e) {
                // What makes no sense leaves the status itself.
            }
        }
        Status.Code code = status.getCode();
        // gRPC says "io exception" alone, and its cause which one.
        var cause = Optional.ofNullable(status.getCause()).map(Throwable::getMessage);
        String message = Stream.of(Optional.ofNullable(status.getDescription()), cause)
                .flatMap(Optional::stream).distinct().collect(Collectors.joining(": "));
        message = message.isEmpty() ? code.name() : message;
        return new Failure(message, "", code, RETRYABLE.contains(code), Optional.empty(), Map.of());
    }

    /** The failure that a {@link ReplyError} stands for. */
    public static Failure of(ReplyError error) {
        String reason = switch (error.getReason()) {
            case ERROR_REASON_UNSPECIFIED -> "";
            case UNRECOGNIZED -> "UNKNOWN_" + error.getReasonValue();
            default -> error.getReason().name().substring("ERROR_REASON_".length());
        };
        var wait = error.getRetryAfter();
        return new Failure(
                error.getMessage(),
                reason,
                Status.fromCodeValue(error.getCode()).getCode(),
                error.getRetryable(),
                Optional.of(Duration.ofSeconds(wait.getSeconds(), wait.getNanos())).filter(is -> error.hasRetryAfter()),
                Map.copyOf(error.getMetadataMap()));
    }

    /** No server could be asked; for a client that gives up by itself. */
    public static Failure unavailable(String message, boolean retryable) {
        return new Failure(message, "", Status.Code.UNAVAILABLE, retryable, Optional.empty(), Map.of());
    }

    /** The same, after which another attempt may succeed. */
    public Failure worthAnotherAttempt() {
        return new Failure(message, reason, code, true, Optional.empty(), Map.of());
    }

    /** The exception of this reason; of one that is newer than this client, the exception of its code. */
    public ParleyException toException() { return Exceptions.of(this); }

    /** Whether the call, and not what was asked for, has failed: the same call may be made again. */
    public boolean isCut() {
        return code == Status.Code.UNAVAILABLE || (reason.isEmpty() && CUTS.contains(code));
    }
}
