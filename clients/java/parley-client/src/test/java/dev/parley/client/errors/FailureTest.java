package dev.parley.client.errors;

import static java.util.stream.Collectors.toSet;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertSame;

import com.google.protobuf.Duration;
import dev.parley.v1.ErrorReason;
import dev.parley.v1.ReplyError;
import io.grpc.Metadata;
import io.grpc.Status;
import java.util.Arrays;
import java.util.Map;
import java.util.Optional;
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
                        .filter(code -> Failure.of(code.toStatus(), new Metadata()).isCut())
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
}
