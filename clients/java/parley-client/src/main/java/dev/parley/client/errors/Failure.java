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

/**
 * The facts of a failed call or reply; {@link #toException} makes its exception.
 *
 * @param message can be shown to users
 * @param reason the name of a {@link dev.parley.v1.ErrorReason} without its prefix; empty if the failure came from the
 *     transport and not from a Parley server
 * @param retryable whether a new attempt may succeed
 */
public record Failure(
        String message,
        String reason,
        Status.Code code,
        boolean retryable,
        Optional<Duration> retryAfter,
        Map<String, String> metadata) {

    private static final Metadata.Key<byte[]> TRAILER =
            Metadata.Key.of("parley-error-bin", Metadata.BINARY_BYTE_MARSHALLER);
    /**
     * Codes that proxies, a stopping server and RST_STREAM produce, in addition to UNAVAILABLE. Parley's own INTERNAL has
     * a reason.
     */
    private static final Set<Status.Code> CUTS =
            EnumSet.of(Status.Code.CANCELLED, Status.Code.INTERNAL, Status.Code.UNKNOWN);
    /** gRPC's words for a stream or connection that a proxy has ended to limit its load. */
    private static final String CALMED = "HTTP/2 error code: ENHANCE_YOUR_CALM";

    /** Returns the failure of a call that ended with a status other than OK. */
    public static Failure of(Status status, Metadata trailers) {
        byte[] trailer = trailers == null ? null : trailers.get(TRAILER);
        if (trailer != null) {
            try {
                return of(ReplyError.parseFrom(trailer));
            } catch (InvalidProtocolBufferException e) {
                // Not a trailer of Parley: use the status.
            }
        }
        String description = Optional.ofNullable(status.getDescription()).orElse("");
        // The code of gRPC is also that of a request that is too large.
        boolean calmed = status.getCode() == Status.Code.RESOURCE_EXHAUSTED && description.contains(CALMED);
        Status.Code code = calmed ? Status.Code.UNAVAILABLE : status.getCode();
        // gRPC's description is only "io exception"; the cause has the details.
        var cause = Optional.ofNullable(status.getCause()).map(Throwable::getMessage);
        String message = Stream.of(Optional.ofNullable(status.getDescription()), cause)
                .flatMap(Optional::stream).distinct().collect(Collectors.joining(": "));
        message = message.isEmpty() ? code.name() : message;
        boolean retryable =
                code == Status.Code.UNAVAILABLE || code == Status.Code.DEADLINE_EXCEEDED || CUTS.contains(code);
        return new Failure(message, "", code, retryable, Optional.empty(), Map.of());
    }

    /** Returns the failure of a {@link ReplyError}. */
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

    /** Returns the failure of a call that the client itself ends. */
    public static Failure unavailable(String message, boolean retryable) {
        return new Failure(message, "", Status.Code.UNAVAILABLE, retryable, Optional.empty(), Map.of());
    }

    /** Returns the same failure as retryable, without a delay or metadata. */
    public Failure worthAnotherAttempt() {
        return new Failure(message, reason, code, true, Optional.empty(), Map.of());
    }

    /** Returns the exception of the reason, or of the status code if the reason is empty or unknown. */
    public ParleyException toException() { return Exceptions.of(this); }

    /** Whether the same call may be retried: no server was available, the call was cut, or a rate is limited. */
    public boolean mayRetry() {
        boolean limited = reason.equals("RATE_LIMITED") && retryable;
        return limited || code == Status.Code.UNAVAILABLE || (reason.isEmpty() && CUTS.contains(code));
    }
}
