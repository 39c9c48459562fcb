package dev.parley.client.errors;

import static java.util.Map.entry;

import com.google.protobuf.InvalidProtocolBufferException;
import dev.parley.v1.ReplyError;
import io.grpc.Metadata;
import io.grpc.Status;
import java.time.Duration;
import java.util.EnumSet;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.function.Function;

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

    private static final Map<String, Function<Failure, ParleyException>> BY_REASON = Map.ofEntries(
            entry("INVALID_REQUEST", InvalidRequestException::new),
            entry("UNSUPPORTED_INPUT", UnsupportedInputException::new),
            entry("CONTEXT_TOO_LARGE", ContextTooLargeException::new),
            entry("INPUT_TOO_LARGE", InputTooLargeException::new),
            entry("UNAUTHENTICATED", UnauthenticatedException::new),
            entry("FORBIDDEN", ForbiddenException::new),
            entry("CONVERSATION_NOT_FOUND", ConversationNotFoundException::new),
            entry("MESSAGE_NOT_FOUND", MessageNotFoundException::new),
            entry("REPLY_NOT_FOUND", ReplyNotFoundException::new),
            entry("MODEL_NOT_FOUND", ModelNotFoundException::new),
            entry("PROVIDER_NOT_FOUND", ProviderNotFoundException::new),
            entry("IMAGE_NOT_FOUND", ImageNotFoundException::new),
            entry("REQUEST_ID_REUSED", RequestIdReusedException::new),
            entry("CONVERSATION_EXISTS", ConversationExistsException::new),
            entry("REPLY_IN_PROGRESS", ReplyInProgressException::new),
            entry("ETAG_MISMATCH", EtagMismatchException::new),
            entry("RATE_LIMITED", RateLimitedException::new),
            entry("QUOTA_EXCEEDED", QuotaExceededException::new),
            entry("TOO_MANY_READERS", TooManyReadersException::new),
            entry("NOT_CONFIGURED", NotConfiguredException::new),
            entry("DRAINING", DrainingException::new),
            entry("OVERLOADED", OverloadedException::new),
            entry("STORAGE_UNAVAILABLE", StorageUnavailableException::new),
            entry("PROVIDER_UNAVAILABLE", ReplyFailedException::new),
            entry("PROVIDER_RATE_LIMITED", ReplyFailedException::new),
            entry("PROVIDER_TIMEOUT", ReplyFailedException::new),
            entry("PROVIDER_REJECTED", ReplyFailedException::new),
            entry("PROVIDER_UNAUTHENTICATED", ReplyFailedException::new),
            entry("PROVIDER_MALFORMED", ReplyFailedException::new),
            entry("PROVIDER_TRUNCATED", ReplyFailedException::new),
            entry("OWNER_LOST", ReplyFailedException::new),
            entry("INTERNAL", InternalErrorException::new));

    private static final Map<Status.Code, Function<Failure, ParleyException>> BY_CODE = Map.ofEntries(
            entry(Status.Code.INVALID_ARGUMENT, InvalidRequestException::new),
            entry(Status.Code.UNAUTHENTICATED, UnauthenticatedException::new),
            entry(Status.Code.PERMISSION_DENIED, ForbiddenException::new),
            entry(Status.Code.NOT_FOUND, NotFoundException::new),
            entry(Status.Code.ALREADY_EXISTS, AlreadyExistsException::new),
            entry(Status.Code.RESOURCE_EXHAUSTED, LimitExceededException::new),
            entry(Status.Code.FAILED_PRECONDITION, NotConfiguredException::new),
            entry(Status.Code.UNAVAILABLE, UnavailableException::new),
            entry(Status.Code.CANCELLED, UnavailableException::new),
            entry(Status.Code.DEADLINE_EXCEEDED, DeadlineExceededException::new),
            entry(Status.Code.INTERNAL, InternalErrorException::new));

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
        String message = status.getDescription() == null ? code.name() : status.getDescription();
        return new Failure(message, "", code, RETRYABLE.contains(code), Optional.empty(), Map.of());
    }

    /** The failure that a {@link ReplyError} stands for. */
    public static Failure of(ReplyError error) {
        return new Failure(
                error.getMessage(),
                reasonName(error),
                Status.fromCodeValue(error.getCode()).getCode(),
                error.getRetryable(),
                error.hasRetryAfter()
                        ? Optional.of(Duration.ofSeconds(error.getRetryAfter().getSeconds(), error.getRetryAfter().getNanos()))
                        : Optional.empty(),
                Map.copyOf(error.getMetadataMap()));
    }

    /** No server could be asked; for a client that gives up by itself. */
    public static Failure unavailable(String message, boolean retryable) {
        return new Failure(message, "", Status.Code.UNAVAILABLE, retryable, Optional.empty(), Map.of());
    }

    /** The exception of this reason; of one that is newer than this client, the exception of its code. */
    public ParleyException toException() {
        return BY_REASON.getOrDefault(reason, BY_CODE.getOrDefault(code, ParleyException::new)).apply(this);
    }

    /** Whether the call, and not what was asked for, has failed: the same call may be made again. */
    public boolean isCut() {
        return code == Status.Code.UNAVAILABLE || (reason.isEmpty() && CUTS.contains(code));
    }

    private static String reasonName(ReplyError error) {
        return switch (error.getReason()) {
            case ERROR_REASON_UNSPECIFIED -> "";
            case UNRECOGNIZED -> "UNKNOWN_" + error.getReasonValue();
            default -> error.getReason().name().substring("ERROR_REASON_".length());
        };
    }
}
