package dev.parley.spring.web;

import static dev.parley.client.testing.Chunks.accepted;
import static dev.parley.client.testing.Chunks.error;
import static dev.parley.client.testing.Chunks.failed;
import static dev.parley.client.testing.Chunks.finished;
import static dev.parley.client.testing.Chunks.millis;
import static dev.parley.client.testing.Chunks.snapshot;
import static dev.parley.client.testing.Chunks.text;
import static org.assertj.core.api.Assertions.assertThat;

import com.jayway.jsonpath.JsonPath;
import dev.parley.client.testing.Browser;
import dev.parley.client.testing.ScriptedServer;
import dev.parley.client.testing.ScriptedServer.Abort;
import dev.parley.client.testing.ScriptedServer.Await;
import dev.parley.v1.TokenChunk;
import io.grpc.Status;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.DisplayName;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.springframework.context.ConfigurableApplicationContext;

/** Server-sent events of Spring MVC on Tomcat, with scripted answers of a gRPC server. */
@Timeout(60)
class ReplySseTest {
    static ScriptedServer parley;
    static ConfigurableApplicationContext application;

    private final CountDownLatch never = new CountDownLatch(1);
    private Browser browser;

    @BeforeAll
    static void start() {
        parley = new ScriptedServer();
        application = ChatApplication.run(parley.address());
    }

    @AfterAll
    static void stop() {
        application.close();
        parley.close();
    }

    @BeforeEach
    void open() {
        parley.calls.clear();
        browser = new Browser(ChatApplication.port(application));
    }

    @AfterEach
    void release() { never.countDown(); }

    private Browser.Events chat() { return browser.open("POST", "/chat", "{\"text\": \"Hi\"}"); }

    private Browser.Events ask() { return browser.open("POST", "/ask", "{\"text\": \"Hi\"}"); }

    @Test
    void theEventsOfAReplyAreLinesOfJson() throws Exception {
        parley.script(accepted(0), text(1, "one "), text(2, "line\nbreak"), finished(3));
        try (var events = ask()) {
            var headers = events.response.headers();
            assertThat(events.response.statusCode()).isEqualTo(200);
            assertThat(headers.firstValue("Content-Type").orElseThrow()).isEqualToIgnoringCase("text/event-stream;charset=UTF-8");
            assertThat(headers.firstValue("Cache-Control")).hasValue("no-cache");
            assertThat(headers.firstValue("X-Accel-Buffering")).hasValue("no");
            assertThat(events.line()).isEqualTo(
                    "data: {\"type\":\"reply\",\"reply_id\":\"reply-1\",\"message_id\":\"message-2\",\"after\":0}");
            assertThat(events.line()).isEmpty();
            assertThat(events.line()).isEqualTo("data: {\"type\":\"text\",\"text\":\"one \",\"sequence\":1}");
            assertThat(events.rest()).containsExactly(
                    "{\"type\":\"text\",\"text\":\"line\\nbreak\",\"sequence\":2}",
                    "{\"type\":\"finished\",\"reason\":\"STOP\",\"cancel_reason\":null,\"model\":\"spare\",\"input_tokens\":3,"
                            + "\"output_tokens\":5,\"cost_usd\":null,\"message_id\":\"message-2\"}");
        }
    }

    @Test
    void aRefusalBeforeTheAcceptanceIsAStatus() {
        parley.script(ScriptedServer.refusal(Status.Code.NOT_FOUND, "CONVERSATION_NOT_FOUND"));
        var answer = browser.post("/chat", "{\"text\": \"Hi\"}");
        assertThat(answer.statusCode()).isEqualTo(404);
        assertThat(answer.body()).isEqualTo(
                "{\"message\":\"as scripted\",\"error\":\"as scripted\",\"code\":\"CONVERSATION_NOT_FOUND\",\"retryable\":false}");
    }

    @Test
    @DisplayName("S0.5: a rate limit is answered at once, with the seconds to wait, although the client would wait")
    void aLimitIsAnsweredAtOnce() {
        var limit = error(Status.Code.RESOURCE_EXHAUSTED, "RATE_LIMITED").setRetryable(true).setRetryAfter(millis(30_200));
        parley.script(new Abort(Status.Code.RESOURCE_EXHAUSTED, limit.build()));
        var answer = browser.post("/chat", "{\"text\": \"Hi\"}");
        assertThat(answer.statusCode()).isEqualTo(429);
        assertThat(answer.headers().firstValue("Retry-After")).hasValue("31");
        assertThat(answer.body()).contains("\"code\":\"RATE_LIMITED\"").contains("\"retryable\":true");
        assertThat(parley.methods()).containsExactly("StreamReply");
    }

    @Test
    void aCutBeforeTheAcceptanceIsRetriedBeforeTheStatus() throws Exception {
        parley.script(ScriptedServer.abort(Status.Code.UNAVAILABLE));
        parley.script(accepted(0), text(1, "a"), finished(2));
        try (var events = chat()) {
            assertThat(events.rest()).containsExactly("{\"text\":\"a\"}", "{\"done\":\"STOP\"}");
        }
    }

    @Test
    void aRefusedCredentialOfTheApplicationIsNotTheFaultOfTheBrowser() {
        parley.script(ScriptedServer.refusal(Status.Code.UNAUTHENTICATED, "UNAUTHENTICATED"));
        var answer = browser.post("/chat", "{\"text\": \"Hi\"}");
        assertThat(answer.statusCode()).isEqualTo(502);
        assertThat(answer.body()).contains("BAD_GATEWAY").doesNotContain("as scripted");
    }

    @Test
    void aReplyThatFailsIsAnEvent() throws Exception {
        var broken = error(Status.Code.ABORTED, "PROVIDER_UNAVAILABLE").setRetryable(true).setRetryAfter(millis(1500)).build();
        parley.script(accepted(0), text(1, "one"), failed(2, broken));
        try (var events = ask()) {
            var all = events.rest();
            assertThat(all.get(all.size() - 1)).isEqualTo(
                    "{\"type\":\"failed\",\"message\":\"as scripted\",\"error\":\"as scripted\",\"code\":\"PROVIDER_UNAVAILABLE\","
                            + "\"retryable\":true,\"retry_after_s\":2,\"message_id\":\"message-2\"}");
        }
    }

    @Test
    void aReconnectToParleyIsAnEventOfThePage() throws Exception {
        parley.script(accepted(0), text(1, "one "), ScriptedServer.abort(Status.Code.UNAVAILABLE));
        parley.script(accepted(1), text(2, "two"), finished(3));
        try (var events = ask()) {
            List<String> types = JsonPath.read("[" + String.join(",", events.rest()) + "]", "$[*].type");
            assertThat(types).containsExactly("reply", "text", "waiting", "text", "finished");
        }
    }

    @Test
    void aSnapshotReplacesTheTextOfThePage() throws Exception {
        parley.script(accepted(0), text(1, "one"), snapshot(2, "two"), finished(3));
        try (var events = ask()) {
            assertThat(events.rest()).contains("{\"type\":\"snapshot\",\"text\":\"two\",\"sequence\":2}");
        }
    }

    @Test
    void aSnapshotThatContinuesTheTextIsSentAsItsRest() throws Exception {
        parley.script(accepted(0), text(1, "one"), snapshot(2, "one two"), text(3, " three"), finished(4));
        try (var events = chat()) {
            assertThat(events.rest()).containsExactly(
                    "{\"text\":\"one\"}", "{\"text\":\" two\"}", "{\"text\":\" three\"}", "{\"done\":\"STOP\"}");
        }
    }

    @Test
    void aSnapshotThatChangesTheTextEndsWithAnErrorWhereNothingCanReplaceIt() throws Exception {
        parley.script(accepted(0), text(1, "one"), snapshot(2, "two"), text(3, " three"), finished(4));
        try (var events = chat()) {
            assertThat(events.rest()).containsExactly("{\"text\":\"one\"}", "{\"error\":\"TEXT_REPLACED\"}");
        }
    }

    @Test
    void aSilentStreamIsKeptAliveByComments() throws Exception {
        parley.script(accepted(0), new Await(never), finished(1));
        try (var events = chat()) {
            assertThat(events.line()).isEqualTo(": alive");
            assertThat(events.line()).isEmpty();
            assertThat(events.line()).isEqualTo(": alive");
        }
    }

    @Test
    void aBrowserThatLeavesEndsItsCallWhileTheModelIsSilent() throws Exception {
        parley.script(accepted(0), new Await(never), finished(1));
        try (var events = ask()) {
            assertThat(events.next()).contains("reply-1");
        }
        assertThat(parley.calls.get(0).cancelled.await(20, TimeUnit.SECONDS)).isTrue();
    }

    @Test
    void aBrowserThatDoesNotReadStopsTheReplyAndLaterGetsAll() throws Exception {
        List<TokenChunk> chunks = new ArrayList<>();
        String piece = "0123456789".repeat(1_000);
        for (int i = 1; i <= 2_000; i++) {
            chunks.add(text(i, piece));
        }
        parley.script(accepted(0), chunks, finished(2_001));
        try (var events = chat()) {
            int before = -1;
            var written = parley.calls.get(0).written;
            while (written.get() != before) { // the buffers of two connections fill up
                before = written.get();
                TimeUnit.MILLISECONDS.sleep(500);
            }
            assertThat(before).isLessThan(1_900);
            String all = events.rest().stream()
                    .filter(event -> event.startsWith("{\"text\"")).map(event -> JsonPath.<String>read(event, "$.text"))
                    .collect(Collectors.joining());
            assertThat(all).hasSize(2_000 * piece.length());
        }
    }

    @Test
    void theEndOfTheApplicationEndsItsStreams() throws Exception {
        var restarted = ChatApplication.run(parley.address());
        parley.script(accepted(0), new Await(never), finished(1));
        try (var events = new Browser(ChatApplication.port(restarted)).open("POST", "/ask", "{\"text\": \"Hi\"}")) {
            assertThat(events.next()).contains("reply-1");
            long start = System.nanoTime();
            restarted.close();
            assertThat(restOrCut(events)).isEmpty();
            assertThat(System.nanoTime() - start).isLessThan(TimeUnit.SECONDS.toNanos(20)); // Tomcat would wait for 30 s
        }
    }

    /** Tomcat counts a request as ended before it sends the last, empty chunk, and may close the connection in between. */
    private static List<String> restOrCut(Browser.Events events) {
        List<String> rest = new ArrayList<>();
        try {
            for (String event = events.next(); event != null; event = events.next()) {
                rest.add(event);
            }
        } catch (IOException cut) {
            // the events before it count
        }
        return rest;
    }

    @Test
    void faultsOfTheFrameworkHaveTheSameJson() {
        var bad = browser.post("/chat", "{");
        assertThat(bad.statusCode()).isEqualTo(400);
        assertThat(bad.body()).startsWith("{\"message\":").contains("\"code\":\"BAD_REQUEST\"").doesNotContain("JSON parse");
        assertThat(browser.get("/chat").statusCode()).isEqualTo(405);
        assertThat(browser.get("/chat").body()).contains("METHOD_NOT_ALLOWED");
        assertThat(browser.get("/nowhere").statusCode()).isEqualTo(404);
        assertThat(browser.get("/nowhere").body()).contains("NOT_FOUND").doesNotContain("nowhere");
        var large = browser.post("/chat", "{\"text\": \"" + "a".repeat(ChatApplication.MAX_BYTES) + "\"}");
        assertThat(large.statusCode()).isEqualTo(413);
        assertThat(large.body()).contains("TOO_LARGE");
        for (String invalid : List.of("/a%2fb", "/a%00b")) {
            var refused = browser.get(invalid);
            assertThat(refused.statusCode()).isEqualTo(400);
            assertThat(refused.body()).isEqualTo("{\"message\":\"The request cannot be read.\","
                    + "\"error\":\"The request cannot be read.\",\"code\":\"BAD_REQUEST\",\"retryable\":false}");
        }
        assertThat(browser.get("/error").statusCode()).isEqualTo(404);
        var defect = browser.post("/defect", "{}");
        assertThat(defect.statusCode()).isEqualTo(500);
        assertThat(defect.body()).contains("INTERNAL").doesNotContain("secret");
    }
}
