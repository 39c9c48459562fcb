package dev.parley.client;

import static dev.parley.client.testing.Chunks.REPLY_ID;
import static dev.parley.client.testing.Chunks.accepted;
import static dev.parley.client.testing.Chunks.error;
import static dev.parley.client.testing.Chunks.finished;
import static dev.parley.client.testing.Chunks.millis;
import static dev.parley.client.testing.Chunks.text;
import static dev.parley.client.testing.Chunks.texts;
import static dev.parley.client.testing.ScriptedServer.abort;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.parley.client.ReplyEvent.Reconnecting;
import dev.parley.client.errors.ConnectionLostException;
import dev.parley.client.errors.CredentialFailedException;
import dev.parley.client.errors.ParleyException;
import dev.parley.client.errors.UnavailableException;
import dev.parley.client.testing.ScriptedServer;
import dev.parley.client.testing.ScriptedServer.Abort;
import dev.parley.v1.Accepted;
import dev.parley.v1.Quota;
import dev.parley.v1.Reply;
import dev.parley.v1.TokenChunk;
import io.grpc.Metadata;
import io.grpc.Status;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Iterator;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Supplier;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Credentials from a function, and refusals of identity and limits, over a real socket. */
@Timeout(20)
class CredentialsTest {
    private static final Abort BARE = abort(Status.Code.UNAVAILABLE);
    private static final Reply REPLY = Reply.newBuilder().setId(REPLY_ID).build();
    private static final Metadata.Key<String> KEY = Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

    private final ScriptedServer server = new ScriptedServer();
    private final List<ParleyClient> clients = new ArrayList<>();

    private ParleyClient client(ParleyClientBuilder builder) {
        clients.add(builder.build());
        return clients.get(clients.size() - 1);
    }

    private ParleyClientBuilder builder(Duration maxElapsed) {
        return ParleyClient.builder(server.address())
                .endUser("ada")
                .backoff(new Backoff(Duration.ofMillis(1), Duration.ofMillis(10), maxElapsed));
    }

    private ParleyClient client(Supplier<String> credential) {
        return client(builder(Duration.ofSeconds(5)).apiKey(credential));
    }

    @AfterEach
    void stop() {
        clients.forEach(ParleyClient::close);
        server.close();
    }

    private List<String> credentials() {
        return server.calls.stream().map(call -> call.metadata.get(KEY)).toList();
    }

    private static Supplier<String> inTurn(String... credentials) {
        Iterator<String> rest = Arrays.asList(credentials).iterator();
        return () -> rest.hasNext() ? rest.next() : "";
    }

    private static List<ReplyEvent> read(ReplyStream stream) {
        List<ReplyEvent> events = new ArrayList<>();
        stream.forEachRemaining(events::add);
        return events;
    }

    @Test
    void eachAttemptHasANewCredential() {
        AtomicInteger count = new AtomicInteger();
        ParleyClient client = client(() -> "token-" + count.incrementAndGet());
        server.answer("GetReply", BARE, REPLY);
        assertEquals(REPLY, client.getReply(REPLY_ID));
        server.log.addAll(texts("a", "b"));
        server.log.add(finished(3));
        server.cut(2, BARE);
        server.cut(2, BARE);
        ReplyStream stream = client.actingFor("ben").streamReply("Hi");
        read(stream);
        assertEquals("ab", stream.text());
        assertEquals(List.of("GetReply", "GetReply", "StreamReply", "ResumeReply", "ResumeReply"), server.methods());
        assertEquals(
                List.of("Bearer token-1", "Bearer token-2", "Bearer token-3", "Bearer token-4", "Bearer token-5"),
                credentials());
        var user = Metadata.Key.of("x-end-user", Metadata.ASCII_STRING_MARSHALLER);
        assertEquals("ben", server.calls.get(4).metadata.get(user));
    }

    @ParameterizedTest
    @CsvSource({"throws, IllegalStateException", "empty, IllegalArgumentException", "Zo\u00eb, IllegalArgumentException"})
    void aFunctionThatFailsSendsNothing(String what, String cause) {
        ParleyClient client = client(() -> {
            if (what.equals("throws")) {
                throw new IllegalStateException("secret");
            }
            return what.equals("empty") ? "" : what;
        });
        for (Runnable call : List.<Runnable>of(() -> client.getReply(REPLY_ID), () -> client.streamReply("Hi").next())) {
            var failure = assertThrows(CredentialFailedException.class, call::run);
            assertEquals("the function for the credential failed with " + cause, failure.getMessage());
            assertEquals(cause, failure.getCause().getClass().getSimpleName());
        }
        assertEquals(List.of(), server.methods());
    }

    @Test
    void aFunctionThatHangsEndsWithItsTimeLimit() throws InterruptedException {
        CountDownLatch interrupted = new CountDownLatch(1);
        var builder = builder(Duration.ofSeconds(5)).apiKey(hanging(new CountDownLatch(1), interrupted));
        ParleyClient client = client(builder.credentialLimit(Duration.ofMillis(50)));
        var failure = assertThrows(CredentialFailedException.class, () -> client.getReply(REPLY_ID));
        assertEquals("the function for the credential did not return within 0.05 s", failure.getMessage());
        assertTrue(interrupted.await(10, TimeUnit.SECONDS));
    }

    private static Supplier<String> hanging(CountDownLatch asked, CountDownLatch interrupted) {
        return () -> {
            asked.countDown();
            try {
                new CountDownLatch(1).await();
            } catch (InterruptedException e) {
                interrupted.countDown();
            }
            return "late";
        };
    }

    @ParameterizedTest
    @ValueSource(booleans = {true, false})
    void closingEndsTheWaitForACredential(boolean closesClient) throws Exception {
        CountDownLatch asked = new CountDownLatch(1);
        ParleyClient client = client(hanging(asked, new CountDownLatch(1)));
        ReplyStream stream = client.streamReply("Hi");
        var reading = CompletableFuture.supplyAsync(stream::hasNext);
        assertTrue(asked.await(10, TimeUnit.SECONDS));
        var calling = CompletableFuture.supplyAsync(() -> client.getReply(REPLY_ID));
        if (closesClient) {
            client.close();
            var failed = assertThrows(ExecutionException.class, () -> reading.get(5, TimeUnit.SECONDS));
            assertInstanceOf(UnavailableException.class, failed.getCause());
            var refused = assertThrows(ExecutionException.class, () -> calling.get(5, TimeUnit.SECONDS));
            assertInstanceOf(UnavailableException.class, refused.getCause());
        } else {
            stream.close();
            assertFalse(reading.get(5, TimeUnit.SECONDS));
        }
        assertEquals(List.of(), server.methods());
    }

    @Test
    void aFunctionThatFailsOnceDoesNotEndAnAcceptedStream() {
        server.log.addAll(texts("a", "b"));
        server.log.add(finished(3));
        server.cut(2, BARE);
        var events = read(client(inTurn("token-1", "", "token-3")).streamReply("Hi"));
        var errors = events.stream()
                .flatMap(event -> event instanceof Reconnecting cut ? List.of(cut.error().getClass()).stream() : null)
                .toList();
        assertEquals(List.of(UnavailableException.class, CredentialFailedException.class), errors);
        assertEquals(List.of("Bearer token-1", "Bearer token-3"), credentials());
    }

    @Test
    void aFunctionThatFailsForLongLeavesTheCursor() {
        server.script(accepted(0), text(1, "a"), BARE);
        ParleyClient client = client(builder(Duration.ofMillis(50)).apiKey(inTurn("token-1")));
        var lost = assertThrows(ConnectionLostException.class, () -> read(client.streamReply("Hi")));
        assertEquals(List.of(REPLY_ID, 1, "a"), List.of(lost.replyId(), lost.sequence(), lost.text()));
    }

    private static Abort refused(Status.Code code, String reason, boolean retryable, int millis) {
        return new Abort(code, error(code, reason).setRetryable(retryable).setRetryAfter(millis(millis)).build());
    }

    @ParameterizedTest
    @CsvSource({"UNAUTHENTICATED, UNAUTHENTICATED", "PERMISSION_DENIED, FORBIDDEN", "RESOURCE_EXHAUSTED, QUOTA_EXCEEDED"})
    void refusalsThatLastAreNotRetried(Status.Code code, String reason) {
        ParleyClient client = client(builder(Duration.ofSeconds(5)));
        server.answer("CreateReply", refused(code, reason, false, 1));
        server.script(refused(code, reason, false, 1));
        for (Runnable call : List.<Runnable>of(() -> client.createReply("Hi"), () -> client.streamReply("Hi").next())) {
            assertEquals(reason, assertThrows(ParleyException.class, call::run).reason());
        }
        assertEquals(2, server.calls.size());
    }

    @ParameterizedTest
    @CsvSource({"RESOURCE_EXHAUSTED, RATE_LIMITED", "UNAVAILABLE, IDENTITY_UNAVAILABLE"})
    void refusalsThatPassAreRetriedWithinTheLimit(Status.Code code, String reason) {
        ParleyClient client = client(builder(Duration.ofSeconds(5)));
        server.answer("CreateReply", refused(code, reason, true, 30), REPLY, refused(code, reason, true, 6_000));
        assertEquals(REPLY, client.createReply("Hi"));
        server.log.add(finished(1));
        server.script(refused(code, reason, true, 30));
        var pause = assertInstanceOf(Reconnecting.class, read(client.streamReply("Hi")).get(0));
        assertTrue(pause.delay().toMillis() >= 30);
        var error = assertThrows(ParleyException.class, () -> client.createReply("Hi"));
        assertEquals(Optional.of(Duration.ofSeconds(6)), error.retryAfter());
        assertEquals(5, server.calls.size());
    }

    @Test
    void theQuotaOfTheAcceptanceIsShown() {
        Quota quota = Quota.newBuilder().setName("tokens_per_day").setLimit(200_000).setUsed(150_000).build();
        var first = TokenChunk.newBuilder().setReplyId(REPLY_ID).setAccepted(Accepted.newBuilder().setQuota(quota));
        server.script(first.build(), finished(1));
        var event = client(builder(Duration.ofSeconds(5))).streamReply("Hi").next();
        assertEquals(Optional.of(quota), assertInstanceOf(ReplyEvent.Accepted.class, event).quota());
    }
}
