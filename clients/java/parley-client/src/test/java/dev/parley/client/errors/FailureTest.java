package dev.parley.client.errors;

import static java.util.stream.Collectors.toSet;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertSame;

import com.google.protobuf.Duration;
import dev.parley.v1.ErrorReason;
import dev.parley.v1.ReplyError;
import io.grpc.Metadata;
import io.grpc.Status;
import java.time.Instant;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalLong;
import java.util.Set;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** Every reason of the contract has a class; an unknown reason gives the class of its status code. */
class FailureTest {
    private static final Set<String> OF_REPLIES = Set.of("OWNER_LOST");

    @ParameterizedTest
    @EnumSource(mode = EnumSource.Mode.EXCLUDE, names = {"ERROR_REASON_UNSPECIFIED", "UNRECOGNIZED"})
    void aReasonBecomesTheClassOfItsName(ErrorReason reason) throws ClassNotFoundException {
        String name = reason.name().substring("ERROR_REASON_".length());
        var error = Failure.of(ReplyError.newBuilder()
                        .setCode(Status.Code.ABORTED.value())
                        .setReason(reason)
                        .setMessage("as scripted")
                        .setRetryable(true)
                        .setRetryAfter(Duration.newBuilder().setSeconds(1).setNanos(500_000_000))
                        .putMetadata("reply_id", "r")
                        .build())
                .toException();
        assertSame(Class.forName("dev.parley.client.errors." + className(name)), error.getClass());
        assertEquals(name, error.reason());
        assertEquals(Status.Code.ABORTED, error.code());
        assertEquals(name + ": as scripted", error.getMessage());
        assertEquals(Optional.of(java.time.Duration.ofMillis(1500)), error.retryAfter());
        assertEquals(Map.of("reply_id", "r"), error.metadata());
    }

    private static String className(String reason) {
        if (reason.equals("INTERNAL")) {
            return "InternalErrorException";
        }
        boolean ofReply = OF_REPLIES.contains(reason) || (reason.startsWith("PROVIDER_") && !reason.endsWith("_FOUND"));
        String words = Arrays.stream((ofReply ? "REPLY_FAILED" : reason).split("_"))
                .map(word -> word.charAt(0) + word.substring(1).toLowerCase())
                .reduce("", String::concat);
        return words + "Exception";
    }

    @Test
    void cutsAreUnavailableOrWithoutAReason() {
        assertEquals(
                Set.of(Status.Code.UNAVAILABLE, Status.Code.CANCELLED, Status.Code.INTERNAL, Status.Code.UNKNOWN),
                Arrays.stream(Status.Code.values())
                        .filter(code -> Failure.of(code.toStatus(), new Metadata()).mayRetry())
                        .collect(toSet()));
    }

    @Test
    void anUnknownReasonGivesTheClassOfItsStatusCode() {
        var error = Failure.of(ReplyError.newBuilder().setCode(Status.Code.NOT_FOUND.value()).setReasonValue(999).build())
                .toException();
        assertSame(NotFoundException.class, error.getClass());
        assertEquals("UNKNOWN_999", error.reason());
    }

    @Test
    void anInvalidTrailerGivesTheClassOfTheStatusCode() {
        Metadata trailers = new Metadata();
        trailers.put(Metadata.Key.of("parley-error-bin", Metadata.BINARY_BYTE_MARSHALLER), new byte[] {-1, -1, -1});
        var error = Failure.of(Status.UNAVAILABLE.withDescription("gone"), trailers).toException();
        assertSame(UnavailableException.class, error.getClass());
        assertEquals("gone", error.getMessage());
        assertEquals("", error.reason());
        assertEquals(true, error.retryable());
    }

    @Test
    void aLimitShowsItsNumbersAndTheEndOfItsPeriod() {
        var error = limited(Map.of(
                "limit", "tokens_per_day", "used", "199500", "max", "200000", "needed", "1200",
                "subject", "end_user", "reset_time", "2026-11-30T00:00:00Z"));
        assertEquals(List.of("tokens_per_day", "end_user"), List.of(error.limit(), error.subject()));
        assertEquals(
                List.of(199_500L, 200_000L, 1_200L),
                List.of(error.used().getAsLong(), error.max().getAsLong(), error.needed().getAsLong()));
        assertEquals(Optional.of(Instant.parse("2026-11-30T00:00:00Z")), error.resetTime());
    }

    @Test
    void missingOrUnreadableDetailsOfALimitAreEmpty() {
        for (var metadata : List.of(Map.<String, String>of(), Map.of("used", "many", "max", "", "reset_time", "soon"))) {
            var error = limited(metadata);
            assertEquals(OptionalLong.empty(), error.used());
            assertEquals(OptionalLong.empty(), error.max());
            assertEquals(OptionalLong.empty(), error.needed());
            assertEquals(Optional.empty(), error.resetTime());
        }
    }

    private static LimitExceededException limited(Map<String, String> metadata) {
        return new QuotaExceededException(
                new Failure("full", "QUOTA_EXCEEDED", Status.Code.RESOURCE_EXHAUSTED, false, Optional.empty(), metadata));
    }
}
