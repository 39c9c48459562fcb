package dev.parley.client;

import static dev.parley.client.testing.Chunks.accepted;
import static dev.parley.client.testing.Chunks.error;
import static dev.parley.client.testing.Chunks.failed;
import static dev.parley.client.testing.Chunks.finished;
import static dev.parley.client.testing.Chunks.millis;
import static dev.parley.client.testing.Chunks.snapshot;
import static dev.parley.client.testing.Chunks.text;
import static dev.parley.client.testing.Chunks.texts;
import static dev.parley.client.testing.Chunks.usage;
import static dev.parley.client.testing.ScriptedServer.abort;
import static dev.parley.client.testing.ScriptedServer.refusal;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.parley.client.ReplyEvent.Accepted;
import dev.parley.client.ReplyEvent.Finished;
import dev.parley.client.ReplyEvent.Reconnecting;
import dev.parley.client.ReplyEvent.Snapshot;
import dev.parley.client.ReplyEvent.Text;
import dev.parley.client.errors.ConnectionLostException;
import dev.parley.client.errors.InternalErrorException;
import dev.parley.client.errors.InvalidRequestException;
import dev.parley.client.errors.ModelNotFoundException;
import dev.parley.client.errors.ParleyException;
import dev.parley.client.errors.RateLimitedException;
import dev.parley.client.errors.ReplyFailedException;
import dev.parley.client.errors.ReplyInProgressException;
import dev.parley.client.errors.UnauthenticatedException;
import dev.parley.client.errors.UnavailableException;
import dev.parley.client.testing.Proxy;
import dev.parley.client.testing.ScriptedServer;
import dev.parley.client.testing.ScriptedServer.Abort;
import dev.parley.client.testing.ScriptedServer.Await;
import dev.parley.client.testing.ScriptedServer.Do;
import dev.parley.client.testing.ScriptedServer.Headers;
import dev.parley.v1.CancelRequest;
import dev.parley.v1.FinishReason;
import dev.parley.v1.GoAway;
import dev.parley.v1.Reply;
import dev.parley.v1.ReplyRequest;
import dev.parley.v1.ResumeReplyRequest;
import dev.parley.v1.StreamOptions;
import dev.parley.v1.TokenChunk;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ForwardingClientCall.SimpleForwardingClientCall;
import io.grpc.ForwardingClientCallListener.SimpleForwardingClientCallListener;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Supplier;
import java.util.stream.IntStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Streams over real sockets: cuts, refusals, silence and leaving; the text is exact and there is one end. */
@Timeout(20)
class StreamTest {
    private static final Backoff QUICK = new Backoff(Duration.ofMillis(1), Duration.ofMillis(10), Duration.ofSeconds(10));
    private static final Accepted ACCEPTED =
            new Accepted("reply-1", "conversation-1", "message-2", List.of("message-1"), "scripted", false, List.of("seed"),
                    Optional.empty());
    private static final Finished END = new Finished("STOP", "Hello world", "spare", "typewriter", "", usage());
    private static final List<ReplyEvent> WHOLE =
            List.of(ACCEPTED, new Text("Hel"), new Text("lo "), new Text("wor"), new Text("ld"), END);

    private final CountDownLatch never = new CountDownLatch(1);
    private final ScriptedServer server = new ScriptedServer();
    private final Proxy proxy = new Proxy(server.port());
    private final ParleyClient client = builder().build();

    private ParleyClientBuilder builder() {
        return ParleyClient.builder(proxy.address()).backoff(QUICK);
    }

    @BeforeEach
    void fillTheLog() {
        server.log.addAll(texts("Hel", "lo ", "wor", "ld"));
        server.log.add(finished(5));
    }

    @AfterEach
    void stop() {
        client.close();
        proxy.close();
        server.close();
    }

    /** All events except Reconnecting. */
    private static List<ReplyEvent> read(ReplyStream stream) {
        List<ReplyEvent> events = new ArrayList<>();
        stream.forEachRemaining(events::add);
        events.removeIf(Reconnecting.class::isInstance);
        return events;
    }

    @Test
    void aWholeReply() {
        var request = ReplyRequest.newBuilder().setRequestId("r1").setText("Hi").setModel("scripted").build();
        ReplyStream stream = client.streamReply(request);
        assertEquals(WHOLE, read(stream));
        assertEquals(List.of("r1", "reply-1", "conversation-1", "message-2", "Hello world"), List.of(
                stream.requestId(), stream.replyId(), stream.conversationId(), stream.messageId(), stream.text()));
        assertEquals(5, stream.sequence());
        assertEquals(Optional.of(END), stream.finished());
        assertFalse(stream.hasNext());
        assertEquals(request, server.calls.get(0).request);
        assertEquals(1, server.calls.get(0).cancelled.getCount());
    }

    @Test
    void aListenerReceivesTheSameEvents() throws Exception {
        server.cut(3, abort(Status.Code.UNAVAILABLE));
        List<ReplyEvent> events = new ArrayList<>();
        var end = new CompletableFuture<String>();
        client.streamReply("Hi").listen(new ReplyListener() {
            @Override
            public void onEvent(ReplyEvent event) { events.add(event); }

            @Override
            public void onEnd() { end.complete(Thread.currentThread().getName()); }
        });
        assertTrue(end.get(5, TimeUnit.SECONDS).startsWith("parley-callback-"));
        assertInstanceOf(Reconnecting.class, events.remove(3));
        assertEquals(WHOLE, events);
    }

    @Test
    void aListenerReceivesAFailure() throws Exception {
        server.script(refusal(Status.Code.NOT_FOUND, "MODEL_NOT_FOUND"));
        var failed = new CompletableFuture<RuntimeException>();
        client.streamReply("Hi").listen(new ReplyListener() {
            @Override
            public void onEvent(ReplyEvent event) {}

            @Override
            public void onError(RuntimeException failure) { failed.complete(failure); }
        });
        assertInstanceOf(ModelNotFoundException.class, failed.get(5, TimeUnit.SECONDS));
    }

    @Test
    void aListenerThatThrowsEndsOnlyItsCall() throws Exception {
        server.script(accepted(0), text(1, "Hel"), new Await(never));
        var thrown = new CompletableFuture<Throwable>();
        Thread.UncaughtExceptionHandler before = Thread.getDefaultUncaughtExceptionHandler();
        Thread.setDefaultUncaughtExceptionHandler((thread, error) -> thrown.complete(error));
        try {
            client.streamReply("Hi").listen(event -> { throw new IllegalStateException("mine"); });
            assertEquals("mine", thrown.get(5, TimeUnit.SECONDS).getMessage());
        } finally {
            Thread.setDefaultUncaughtExceptionHandler(before);
        }
        assertTrue(server.calls.get(0).cancelled.await(1, TimeUnit.SECONDS));
        assertEquals(WHOLE, read(client.streamReply("Hi")));
    }

    static Stream<Arguments> cuts() {
        List<List<Object>> ways = List.of(
                List.of(),
                List.of(abort(Status.Code.UNAVAILABLE)),
                List.of(new Abort(Status.Code.UNAVAILABLE,
                        error(Status.Code.UNAVAILABLE, "DRAINING").setRetryAfter(millis(10)).build())),
                List.of(refusal(Status.Code.UNAVAILABLE, "STORAGE_UNAVAILABLE")),
                List.of(refusal(Status.Code.ABORTED, "OWNER_LOST")),
                List.of(refusal(Status.Code.RESOURCE_EXHAUSTED, "TOO_MANY_READERS")),
                List.of(abort(Status.Code.CANCELLED)),
                List.of(abort(Status.Code.INTERNAL)),
                List.of(abort(Status.Code.UNKNOWN)),
                List.of(abort(Status.Code.DEADLINE_EXCEEDED)));
        return ways.stream().flatMap(how -> IntStream.rangeClosed(1, 5).mapToObj(after -> Arguments.of(after, how)));
    }

    @ParameterizedTest
    @MethodSource("cuts")
    void cutAtEveryChunkBoundary(int after, List<Object> how) {
        server.cut(after, how.toArray());
        assertEquals(WHOLE, read(client.streamReply("Hi")));
        assertEquals(List.of("StreamReply", "ResumeReply"), server.methods());
        assertEquals(after - 1, ((ResumeReplyRequest) server.calls.get(1).request).getAfterSequence());
    }

    @ParameterizedTest
    @ValueSource(ints = {1, 2, 3, 4, 5})
    void theConnectionBreaksAtEveryChunkBoundary(int after) {
        server.cut(after, new Do(proxy::cut), new Await(never));
        assertEquals(WHOLE, read(client.streamReply("Hi")));
        assertEquals(2, server.calls.size());
        if (server.methods().get(1).equals("StreamReply")) { // not even `accepted` had come through
            assertEquals(server.calls.get(0).request, server.calls.get(1).request);
        } else {
            assertTrue(((ResumeReplyRequest) server.calls.get(1).request).getAfterSequence() <= after - 1);
        }
    }

    @Test
    void theConnectionBreaksAfterEachChunk() {
        for (int i = 0; i < 3; i++) {
            server.cut(2, new Do(proxy::cut), new Await(never));
        }
        assertEquals(WHOLE, read(client.streamReply("Hi")));
    }

    @Test
    void aCutBetweenHeadersAndAcceptedIsRetriedWithTheSameRequestId() {
        server.script(new Headers(), abort(Status.Code.UNAVAILABLE));
        server.script(new Headers());
        assertEquals(WHOLE, read(client.streamReply("Hi")));
        assertEquals(List.of("StreamReply", "StreamReply", "StreamReply"), server.methods());
        assertEquals(1, server.calls.stream().map(call -> call.request).distinct().count());
        assertFalse(((ReplyRequest) server.calls.get(0).request).getRequestId().isEmpty());
    }

    @ParameterizedTest
    @ValueSource(strings = {"DRAINING", "OVERLOADED", "STORAGE_UNAVAILABLE"})
    void aRefusalForNowIsRepeatedWithTheSameKey(String reason) {
        server.script(new Abort(Status.Code.UNAVAILABLE,
                error(Status.Code.UNAVAILABLE, reason).setRetryable(true).setRetryAfter(millis(200)).build()));
        ReplyStream stream = client.streamReply("Hi");
        var first = (Reconnecting) stream.next();
        assertEquals(1, first.attempt());
        assertEquals(Duration.ofMillis(200), first.delay());
        assertEquals(reason, first.error().reason());
        assertEquals(WHOLE, read(stream));
        assertEquals(server.calls.get(0).request, server.calls.get(1).request);
    }

    static Stream<Arguments> refusals() {
        return Stream.of(
                Arguments.of(Status.Code.INVALID_ARGUMENT, "INVALID_REQUEST", InvalidRequestException.class),
                Arguments.of(Status.Code.UNAUTHENTICATED, "UNAUTHENTICATED", UnauthenticatedException.class),
                Arguments.of(Status.Code.NOT_FOUND, "MODEL_NOT_FOUND", ModelNotFoundException.class),
                Arguments.of(Status.Code.ABORTED, "REPLY_IN_PROGRESS", ReplyInProgressException.class),
                Arguments.of(Status.Code.RESOURCE_EXHAUSTED, "RATE_LIMITED", RateLimitedException.class),
                Arguments.of(Status.Code.INTERNAL, "INTERNAL", InternalErrorException.class));
    }

    @ParameterizedTest
    @MethodSource("refusals")
    void aRefusalForGoodIsThrownAtOnce(Status.Code code, String reason, Class<? extends ParleyException> kind) {
        server.script(refusal(code, reason));
        var error = assertThrows(ParleyException.class, () -> read(client.streamReply("Hi")));
        assertSame(kind, error.getClass());
        assertEquals(code, error.code());
        assertEquals("as scripted", error.failure().message());
        assertEquals(1, server.calls.size());
    }

    @Test
    void goAwayThenEndResumes() {
        var goAway = TokenChunk.newBuilder().setSequence(2).setGoAway(GoAway.getDefaultInstance()).build();
        server.script(accepted(0), server.log.subList(0, 2), goAway, refusal(Status.Code.UNAVAILABLE, "DRAINING"));
        assertEquals(WHOLE, read(client.streamReply("Hi")));
        assertEquals(
                ResumeReplyRequest.newBuilder()
                        .setReplyId("reply-1")
                        .setAfterSequence(2)
                        .setStreamOptions(StreamOptions.getDefaultInstance())
                        .build(),
                server.calls.get(1).request);
    }

    @Test
    void aSnapshotReplacesLostText() {
        server.script(accepted(0), text(1, "Hel"), text(2, "lost"), abort(Status.Code.UNAVAILABLE));
        server.script(accepted(2), snapshot(65537, "Hello"), finished(65538));
        ReplyStream stream = client.streamReply("Hi");
        List<ReplyEvent> events = read(stream);
        assertEquals("Hello", ((Snapshot) events.get(3)).text());
        assertEquals("Hello", ((Finished) events.get(4)).text());
        assertEquals("Hello", stream.text());
        assertEquals(5, events.size());
    }

    @Test
    void aFailedReplyThrowsWithItsText() {
        var error = error(Status.Code.ABORTED, "PROVIDER_TRUNCATED").setRetryable(true).build();
        server.script(accepted(0), text(1, "half"), failed(2, error), new Abort(Status.Code.ABORTED, error));
        ReplyStream stream = client.streamReply("Hi");
        var failure = assertThrows(ReplyFailedException.class, () -> read(stream));
        assertEquals(List.of("PROVIDER_TRUNCATED", "half", "message-2"),
                List.of(failure.reason(), failure.text(), failure.messageId()));
        assertTrue(failure.retryable());
        assertEquals(3, failure.usage().getPromptTokens());
        assertEquals(List.of(), read(stream));
        assertEquals(1, server.calls.size());
        assertEquals(1, server.calls.get(0).cancelled.getCount());
    }

    @Test
    void repeatedTerminalsEndOnce() {
        server.script(accepted(0), text(1, "Hello world"), finished(2), finished(2), finished(3));
        assertEquals(List.of(ACCEPTED, new Text("Hello world"), END), read(client.streamReply("Hi")));
    }

    @Test
    void resumeContinuesFromACursor() {
        assertEquals(
                List.of(ACCEPTED, new Text("ld"), new Finished("STOP", "ld", "spare", "typewriter", "", usage())),
                read(client.resume("reply-1", 3)));
        assertEquals(
                List.of(ACCEPTED, new Finished("STOP", "", "spare", "typewriter", "", usage())), read(client.resume("reply-1", 5)));
    }

    @Test
    void connectionLostAfterAcceptanceHasTheCursorAndTheText() {
        server.script(accepted(0), text(1, "Hel"), abort(Status.Code.UNAVAILABLE));
        for (int i = 0; i < 1000; i++) {
            server.script(accepted(1), abort(Status.Code.UNAVAILABLE));
        }
        var backoff = new Backoff(Duration.ofMillis(1), Duration.ofMillis(20), Duration.ofSeconds(2));
        try (ParleyClient impatient = builder().backoff(backoff).build()) {
            var lost = assertThrows(ConnectionLostException.class, () -> read(impatient.streamReply("Hi")));
            assertEquals("reply-1", lost.replyId());
            assertEquals(1, lost.sequence());
            assertEquals("Hel", lost.text());
            assertTrue(lost.retryable());
            assertTrue(server.calls.size() > 5, "calls: " + server.calls.size());
        }
    }

    @Test
    void aMissingServerIsUnavailable() {
        var never = new Backoff(Duration.ofMillis(1), Duration.ofMillis(1), Duration.ZERO);
        try (ParleyClient alone = ParleyClient.builder("127.0.0.1:1").backoff(never).build()) {
            assertThrows(UnavailableException.class, () -> read(alone.streamReply("Hi")));
            assertThrows(UnavailableException.class, alone::models);
        }
    }

    /** By default, a channel fails calls for up to two minutes without another attempt to connect. */
    @Test
    void eachAttemptConnects() {
        var backoff = new Backoff(Duration.ofMillis(20), Duration.ofMillis(20), Duration.ofSeconds(10));
        try (Proxy toNowhere = new Proxy(1);
                ParleyClient alone = ParleyClient.builder(toNowhere.address()).backoff(backoff).build();
                ReplyStream stream = alone.streamReply("Hi")) {
            for (int attempt = 1; attempt <= 8; attempt++) {
                assertInstanceOf(Reconnecting.class, stream.next());
                assertTrue(toNowhere.taken() >= attempt, "connections: " + toNowhere.taken() + " after " + attempt);
            }
        }
    }

    @Test
    void theStatusAfterTheTerminalChunkIsAwaitedForALimitedTime() throws Exception {
        server.script(accepted(0), text(1, "Hello world"), finished(2), new Await(never));
        assertEquals(List.of(ACCEPTED, new Text("Hello world"), END), read(client.streamReply("Hi")));
        assertFalse(server.calls.get(0).cancelled.await(500, TimeUnit.MILLISECONDS));
        assertTrue(server.calls.get(0).cancelled.await(5, TimeUnit.SECONDS));
    }

    static Stream<Way> ways() {
        return Stream.of(
                new Way("close", (stream, reader) -> stream.close()),
                new Way("interrupt", (stream, reader) -> reader.interrupt()));
    }

    private record Way(String name, Leave leave) {
        interface Leave {
            void leave(ReplyStream stream, Thread reader);
        }

        @Override
        public String toString() { return name; }
    }

    @ParameterizedTest
    @MethodSource("ways")
    void leavingEndsTheCallOnTheServerAtOnce(Way way) throws Exception {
        server.script(accepted(0), text(1, "Hel"), new Await(never));
        ReplyStream stream = client.streamReply("Hi");
        BlockingQueue<Object> seen = new LinkedBlockingQueue<>();
        Thread reader = new Thread(() -> {
            try {
                stream.forEachRemaining(seen::add);
                seen.add("end");
            } catch (CancellationException interrupted) {
                seen.add("interrupted: " + Thread.currentThread().isInterrupted());
            }
        });
        reader.start();
        assertEquals(ACCEPTED, seen.take());
        assertEquals(new Text("Hel"), seen.take());
        way.leave().leave(stream, reader);
        assertTrue(server.calls.get(0).cancelled.await(1, TimeUnit.SECONDS));
        assertEquals(way.name().equals("close") ? "end" : "interrupted: true", seen.take());
        assertFalse(stream.hasNext());
        assertEquals("Hel", stream.text());
    }

    @Test
    void breakingOutOfTryEndsTheCallOnTheServerAtOnce() throws Exception {
        server.script(accepted(0), text(1, "Hel"), new Await(never));
        try (ReplyStream stream = client.streamReply("Hi")) {
            for (ReplyEvent event : stream) {
                if (event instanceof Text) {
                    break;
                }
            }
        }
        assertTrue(server.calls.get(0).cancelled.await(1, TimeUnit.SECONDS));
    }

    @Test
    void aStreamThatIsClosedBeforeItsFirstReadMakesNoCall() {
        ReplyStream stream = client.streamReply("Hi");
        stream.close();
        assertEquals(List.of(), read(stream));
        assertEquals(List.of(), server.calls);
    }

    @Test
    void aStreamHasOneReader() {
        ReplyStream stream = client.streamReply("Hi");
        read(stream);
        assertThrows(IllegalStateException.class, () -> stream.listen(event -> {}));
    }

    @Test
    void closingTheClientFailsItsReadersInEveryWait() throws Exception {
        server.script(accepted(0), text(1, "Hel"), new Await(never));
        ParleyClient other = builder().backoff(new Backoff(Duration.ofHours(1), Duration.ofHours(1), Duration.ofDays(1))).build();
        ReplyStream reading = other.streamReply("Hi");
        reading.next();
        reading.next();
        server.script(refusal(Status.Code.UNAVAILABLE, "DRAINING"));
        ReplyStream pausing = other.streamReply("Hi");
        assertInstanceOf(Reconnecting.class, pausing.next());
        var failures = List.of(failureOf(reading), failureOf(pausing));
        other.close();
        for (var failure : failures) {
            assertEquals("the client is closed", failure.get(5, TimeUnit.SECONDS).getMessage());
        }
        assertThrows(UnavailableException.class, () -> other.streamReply("Hi").hasNext());
        assertThrows(UnavailableException.class, other::models);
    }

    private static CompletableFuture<Throwable> failureOf(ReplyStream stream) {
        var started = new CountDownLatch(1);
        var failure = CompletableFuture.supplyAsync(() -> {
            started.countDown();
            return (Throwable) assertThrows(UnavailableException.class, stream::hasNext);
        });
        try {
            started.await();
        } catch (InterruptedException e) {
            throw new AssertionError(e);
        }
        return failure;
    }

    @Test
    void silenceIsACut() {
        server.cut(2, new Await(never));
        try (ParleyClient attentive = builder().silence(Duration.ofSeconds(1)).build()) {
            assertEquals(WHOLE, read(attentive.streamReply("Hi")));
        }
        assertEquals(List.of("StreamReply", "ResumeReply"), server.methods());
    }

    @Test
    void anAttemptsTimeLimitIsACut() {
        server.cut(2, new Await(never));
        try (ParleyClient hasty = builder().attemptTimeout(Duration.ofSeconds(1)).build()) {
            assertEquals(WHOLE, read(hasty.streamReply("Hi")));
        }
        assertEquals(List.of("StreamReply", "ResumeReply"), server.methods());
    }

    @Test
    void aPauseOfTheReaderIsNotSilence() throws Exception {
        var goOn = new CountDownLatch(1);
        server.script(accepted(0), text(1, "Hello world"), new Await(goOn), finished(2));
        try (ParleyClient attentive = builder().silence(Duration.ofSeconds(1)).build()) {
            ReplyStream stream = attentive.streamReply("Hi");
            stream.next();
            stream.next();
            assertFalse(server.calls.get(0).cancelled.await(1500, TimeUnit.MILLISECONDS));
            goOn.countDown();
            assertEquals(List.of(END), read(stream));
        }
    }

    @Test
    void silenceCountsFromTheDemandOfTheReader() throws Exception {
        var asked = new CountDownLatch(1);
        server.script(accepted(0), text(1, "Hello "), new Await(asked), after(700), text(2, "world"), finished(3));
        try (ParleyClient attentive = builder().silence(Duration.ofSeconds(1)).build()) {
            ReplyStream stream = attentive.streamReply("Hi");
            stream.next();
            stream.next();
            assertFalse(never.await(1500, TimeUnit.MILLISECONDS));
            asked.countDown();
            assertEquals(new ReplyEvent.Text("world"), stream.next());
        }
        assertEquals(List.of("StreamReply"), server.methods());
    }

    @Test
    void silenceCountsFromTheLastChunk() throws Exception {
        server.script(accepted(0), after(600), text(1, "Hello "), after(600), text(2, "world"), after(600), finished(3));
        try (ParleyClient attentive = builder().silence(Duration.ofSeconds(1)).build()) {
            ReplyStream stream = attentive.streamReply("Hi");
            var ended = new CompletableFuture<String>();
            stream.listen(new ReplyListener() {
                @Override
                public void onEvent(ReplyEvent event) {}

                @Override
                public void onEnd() { ended.complete(stream.text()); }
            });
            assertEquals("Hello world", ended.get(10, TimeUnit.SECONDS));
        }
        assertEquals(List.of("StreamReply"), server.methods());
    }

    /** A chunk while the provider is silent. */
    private Do after(int millis) {
        return new Do(() -> {
            try {
                never.await(millis, TimeUnit.MILLISECONDS);
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
        });
    }

    @Test
    void cancelBeforeAndAfterAcceptance() {
        Reply stopped = Reply.newBuilder().setId("reply-1").setState(Reply.State.STATE_CANCELLED).build();
        server.answer("Cancel", refusal(Status.Code.NOT_FOUND, "REPLY_NOT_FOUND"), stopped);
        var goOn = new CountDownLatch(1);
        server.script(accepted(0), text(1, "Hel"), new Await(goOn),
                finished(2, FinishReason.FINISH_REASON_CANCELLED, "enough"));
        var request = ReplyRequest.newBuilder().setRequestId("r1").setText("Hi").build();
        ReplyStream stream = client.streamReply(request);
        assertEquals(Optional.empty(), stream.cancel("early"));
        stream.next();
        stream.next();
        assertEquals(Optional.of(stopped), stream.cancel("enough"));
        goOn.countDown();
        assertEquals(List.of(new Finished("CANCELLED", "Hel", "spare", "typewriter", "enough", usage())), read(stream));
        assertEquals(
                List.of(
                        CancelRequest.newBuilder().setRequestId("r1").setReason("early").build(),
                        CancelRequest.newBuilder().setReplyId("reply-1").setReason("enough").build()),
                server.calls.stream().filter(call -> call.method.equals("Cancel")).map(call -> call.request).toList());
    }

    @Test
    void largeChunksAreReadAheadOneAtATime() throws InterruptedException {
        String large = "x".repeat(100_000);
        server.chunks(request -> List.of(accepted(0), text(1, large), text(2, large), text(3, large), finished(4)));
        var asked = new AtomicInteger();
        var came = new LinkedBlockingQueue<Object>();
        try (ParleyClient slow = builder().channel(channel -> channel.intercept(counting(asked, came))).build();
                ReplyStream stream = slow.streamReply("Hi")) {
            assertInstanceOf(Accepted.class, stream.next());
            for (int count = 1; count <= 2; count++) {
                assertNotNull(came.poll(5, TimeUnit.SECONDS));
            }
            assertEquals(2, asked.get(), "not for what comes after a large one");
            stream.next();
            assertNotNull(came.poll(5, TimeUnit.SECONDS));
            assertEquals(3, asked.get());
        }
    }

    private static ClientInterceptor counting(AtomicInteger asked, BlockingQueue<Object> came) {
        return new ClientInterceptor() {
            @Override
            public <Q, A> ClientCall<Q, A> interceptCall(MethodDescriptor<Q, A> method, CallOptions options, Channel next) {
                return new SimpleForwardingClientCall<>(next.newCall(method, options)) {
                    @Override
                    public void request(int count) {
                        asked.addAndGet(count);
                        super.request(count);
                    }

                    @Override
                    public void start(Listener<A> listener, Metadata headers) {
                        super.start(new SimpleForwardingClientCallListener<>(listener) {
                            @Override
                            public void onMessage(A message) {
                                super.onMessage(message);
                                came.add(message);
                            }
                        }, headers);
                    }
                };
            }
        };
    }

    @Test
    void anObserverReceivesTheEventsOfTheReaderAndTheEnd() throws InterruptedException {
        BlockingQueue<String> signals = new LinkedBlockingQueue<>();
        Supplier<ReplyListener> observer = () -> {
            signals.add("started");
            return new ReplyListener() {
                @Override
                public void onEvent(ReplyEvent event) { signals.add(event.getClass().getSimpleName()); }

                @Override
                public void onEnd() { signals.add("end"); }

                @Override
                public void onError(RuntimeException failure) { signals.add(failure.getClass().getSimpleName()); }
            };
        };
        try (ParleyClient watched = builder().observer(observer).build()) {
            server.cut(3, abort(Status.Code.UNAVAILABLE));
            List<String> expected = new ArrayList<>(List.of("started"));
            watched.streamReply("Hi").forEachRemaining(event -> expected.add(event.getClass().getSimpleName()));
            assertTrue(expected.contains("Reconnecting"), expected.toString());
            expected.add("end");
            assertNext(expected, signals);
            server.script(refusal(Status.Code.NOT_FOUND, "MODEL_NOT_FOUND"));
            assertThrows(ModelNotFoundException.class, () -> read(watched.streamReply("Hi")));
            assertNext(List.of("started", "ModelNotFoundException"), signals);
            try (ReplyStream left = watched.streamReply("Hi")) {
                left.next();
            }
            assertNext(List.of("started", "Accepted", "end"), signals);
            watched.streamReply("Hi").close();
        }
        assertTrue(signals.isEmpty(), signals.toString());
    }

    @Test
    void anObserverThatThrowsDoesNotAffectTheReader() {
        List<Supplier<ReplyListener>> observers = List.of(
                () -> { throw new IllegalStateException("no observer"); },
                () -> event -> { throw new IllegalStateException("no event"); });
        for (var observer : observers) {
            try (ParleyClient watched = builder().observer(observer).build()) {
                assertEquals(WHOLE, read(watched.streamReply("Hi")));
            }
        }
    }

    private static void assertNext(List<String> expected, BlockingQueue<String> signals) throws InterruptedException {
        for (String each : expected) {
            assertEquals(each, signals.poll(5, TimeUnit.SECONDS));
        }
    }
}
