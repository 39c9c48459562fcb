package dev.parley.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTimeoutPreemptively;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.parley.client.ReplyEvent.Reconnecting;
import dev.parley.client.errors.UnavailableException;
import dev.parley.client.testing.ParleyServer;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;

/** Without a server: the client reports it at once, stops after 5 seconds, and words the error itself. */
class NoServerTest {
    private static final Duration LIMIT = Duration.ofSeconds(20);
    private static final Backoff FOR_EVER = new Backoff(Duration.ofMillis(100), Duration.ofSeconds(5), Duration.ofDays(1));

    private static String sentence(String address) {
        return "no Parley server at " + address + "; start one with `parley serve`";
    }

    private static String refused() throws Exception {
        try (var socket = new ServerSocket(0, 1, InetAddress.getLoopbackAddress())) {
            return "127.0.0.1:" + socket.getLocalPort();
        }
    }

    private static void callAndStreamGiveUp(String address) {
        try (ParleyClient client = ParleyClient.builder(address).backoff(FOR_EVER).callTimeout(Duration.ofDays(1)).build()) {
            assertTimeoutPreemptively(LIMIT, () -> {
                var failure = assertThrows(UnavailableException.class, client::models);
                assertEquals(sentence(address), failure.getMessage());
            });
        }
        try (ParleyClient client = ParleyClient.builder(address).backoff(FOR_EVER).build()) {
            assertTimeoutPreemptively(LIMIT, () -> {
                var stream = client.streamReply("Hi");
                var failure = assertThrows(UnavailableException.class, () -> stream.forEachRemaining(event -> {}));
                assertEquals(sentence(address), failure.getMessage());
            });
        }
    }

    @Test
    void aRefusedConnectionIsReportedAtOnce() throws Exception {
        String address = refused();
        try (ParleyClient client = ParleyClient.builder(address).backoff(FOR_EVER).build()) {
            List<ReplyEvent> events = new ArrayList<>();
            var stream = client.streamReply("Hi");
            assertTimeoutPreemptively(LIMIT, () -> assertThrows(
                    UnavailableException.class, () -> stream.forEachRemaining(events::add)));
            assertTrue(events.size() >= 3, "it has tried " + events.size() + " times");
            for (ReplyEvent event : events) {
                var cut = (Reconnecting) event;
                assertEquals(sentence(address), cut.error().getMessage());
                assertTrue(cut.error().getCause().getCause().getMessage().contains("Connection refused"), "the cause has it");
                assertEquals(0, cut.delay().toNanos() % 1_000_000, "whole milliseconds");
            }
        }
    }

    @Test
    void aRefusedConnectionEndsCallsAndStreams() throws Exception {
        callAndStreamGiveUp(refused());
    }

    @Test
    void aPeerThatSendsNothingIsReportedAsAMissingServer() throws Exception {
        try (var silent = new ServerSocket(0, 50, InetAddress.getLoopbackAddress())) {
            callAndStreamGiveUp("127.0.0.1:" + silent.getLocalPort());
        }
    }

    @Test
    void aNameThatDoesNotResolveIsReportedAsAMissingServer() {
        callAndStreamGiveUp("parley.invalid:50051");
    }

    @Test
    void withTlsTheErrorMentionsTheCertificate() throws Exception {
        String address = refused();
        var never = new Backoff(Duration.ofMillis(100), Duration.ofSeconds(5), Duration.ZERO);
        try (ParleyClient client = ParleyClient.builder(address).tls().backoff(never).build()) {
            var failure = assertThrows(UnavailableException.class, client::models);
            assertEquals(sentence(address) + "; with TLS, the client must trust its certificate", failure.getMessage());
        }
    }

    @Test
    void aFirstCallOnTheOnlyThreadOfItsExecutorIsAnswered() throws Exception {
        var one = Executors.newSingleThreadExecutor();
        try (ParleyServer server = ParleyServer.start();
                ParleyClient client = ParleyClient.builder(server.address()).executor(one).build()) {
            assertFalse(one.submit(client::models).get(LIMIT.toSeconds(), TimeUnit.SECONDS).isEmpty());
        } finally {
            one.shutdown();
        }
    }

    @Test
    void aServerThatWasReachedBeforeGetsTheWholeBackoff() throws Exception {
        var patient = new Backoff(Duration.ofMillis(300), Duration.ofMillis(300), Duration.ofSeconds(6));
        try (ParleyServer server = ParleyServer.start();
                ParleyClient client = ParleyClient.builder(server.address()).backoff(patient).build()) {
            client.models();
            server.kill();
            long began = System.nanoTime();
            var failure = assertThrows(UnavailableException.class, () -> client.actingFor("ben").getReply("r"));
            assertEquals("the Parley server at " + server.address() + " cannot be reached", failure.getMessage());
            assertTrue(System.nanoTime() - began > 5_300_000_000L, "it has not given up after 5 seconds");
        }
    }
}
