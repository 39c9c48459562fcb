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
import dev.parley.client.ParleyClient;
import dev.parley.client.testing.Browser;
import dev.parley.client.testing.ScriptedServer;
import dev.parley.client.testing.ScriptedServer.Abort;
import dev.parley.client.testing.ScriptedServer.Await;
import dev.parley.v1.TokenChunk;
import io.grpc.Status;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.springframework.boot.Banner;
import org.springframework.boot.SpringBootConfiguration;
import org.springframework.boot.WebApplicationType;
import org.springframework.boot.autoconfigure.EnableAutoConfiguration;
import org.springframework.boot.builder.SpringApplicationBuilder;
import org.springframework.context.ConfigurableApplicationContext;
import org.springframework.context.annotation.Bean;
import org.springframework.context.annotation.Import;
import org.springframework.http.ResponseEntity;
import org.springframework.http.client.ReactorResourceFactory;
import org.springframework.http.codec.ServerSentEvent;
import org.springframework.web.bind.annotation.ExceptionHandler;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestBody;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.bind.annotation.RestControllerAdvice;
import reactor.core.publisher.Flux;
import reactor.core.publisher.Mono;

/** Server-sent events of Spring WebFlux on Netty, with scripted answers of a gRPC server. */
@Timeout(60)
class ReplyFluxTest {
    static ScriptedServer parley;
    static ConfigurableApplicationContext application;

    private final CountDownLatch never = new CountDownLatch(1);
    private Browser browser;

    @SpringBootConfiguration
    @EnableAutoConfiguration
    @Import({Chat.class, Refusals.class})
    static class Application {
        /** With global ones, the end of one application would end the server of the other. */
        @Bean
        ReactorResourceFactory reactorResourceFactory() {
            var resources = new ReactorResourceFactory();
            resources.setUseGlobalResources(false);
            return resources;
        }

        @Bean
        ReplyFlux replyFlux() { return new ReplyFlux(Duration.ofMillis(100)); }
    }

    @RestController
    static class Chat {
        private final ParleyClient client;
        private final ReplyFlux flux;
        /** Without comments for the time of a test. */
        private final ReplyFlux patient = new ReplyFlux(Duration.ofMinutes(10));

        Chat(ParleyClient client, ReplyFlux flux) {
            this.client = client;
            this.flux = flux;
        }

        @PostMapping("/chat")
        Mono<ResponseEntity<Flux<ServerSentEvent<Object>>>> chat(@RequestBody Map<String, String> body) {
            return flux.send(client.streamReply("Hi"), new ChatApplication.ProductEvents());
        }

        @PostMapping("/ask")
        Mono<ResponseEntity<Flux<ServerSentEvent<Object>>>> ask(@RequestBody Map<String, String> body) {
            return patient.send(client.streamReply("Hi"), new PageEvents());
        }
    }

    @RestControllerAdvice
    static class Refusals {
        @ExceptionHandler
        ResponseEntity<Map<String, Object>> refuse(Exception error) { return Refusal.of(error).toResponse(); }
    }

    private static ConfigurableApplicationContext run() {
        return new SpringApplicationBuilder(Application.class)
                .web(WebApplicationType.REACTIVE)
                .bannerMode(Banner.Mode.OFF)
                .properties("server.port=0", "logging.level.root=warn", "parley.address=" + parley.address())
                .run();
    }

    @BeforeAll
    static void start() {
        parley = new ScriptedServer();
        application = run();
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

    private Browser.Events chat() { return browser.open("POST", "/chat", "{}"); }

    @Test
    void theEventsOfAReplyAreLinesOfJson() throws Exception {
        parley.script(accepted(0), text(1, "one "), finished(2));
        try (var events = browser.open("POST", "/ask", "{}")) {
            assertThat(events.response.statusCode()).isEqualTo(200);
            assertThat(events.response.headers().firstValue("Content-Type").orElseThrow()).startsWith("text/event-stream");
            assertThat(events.response.headers().firstValue("X-Accel-Buffering")).hasValue("no");
            assertThat(events.rest()).containsExactly(
                    "{\"type\":\"reply\",\"reply_id\":\"reply-1\",\"message_id\":\"message-2\",\"after\":0}",
                    "{\"type\":\"text\",\"text\":\"one \",\"sequence\":1}",
                    "{\"type\":\"finished\",\"reason\":\"STOP\",\"cancel_reason\":null,\"model\":\"spare\",\"input_tokens\":3,"
                            + "\"output_tokens\":5,\"cost_usd\":null,\"message_id\":\"message-2\"}");
        }
    }

    @Test
    void aRefusalBeforeTheAcceptanceIsAStatus() {
        var limit = error(Status.Code.RESOURCE_EXHAUSTED, "RATE_LIMITED").setRetryable(true).setRetryAfter(millis(30_200));
        parley.script(new Abort(Status.Code.RESOURCE_EXHAUSTED, limit.build()));
        var answer = browser.post("/chat", "{}");
        assertThat(answer.statusCode()).isEqualTo(429);
        assertThat(answer.headers().firstValue("Retry-After")).hasValue("31");
        assertThat(answer.body()).contains("\"code\":\"RATE_LIMITED\"");
        assertThat(browser.get("/nowhere").statusCode()).isEqualTo(404);
        assertThat(browser.get("/nowhere").body()).contains("\"code\":\"NOT_FOUND\"");
    }

    @Test
    void aReplyThatFailsAndOneThatIsReplacedEndWithAnError() throws Exception {
        parley.script(accepted(0), text(1, "one"), failed(2, error(Status.Code.ABORTED, "PROVIDER_TIMEOUT").build()));
        try (var events = chat()) {
            assertThat(events.rest()).containsExactly("{\"text\":\"one\"}", "{\"error\":\"PROVIDER_TIMEOUT\"}");
        }
        parley.script(accepted(0), text(1, "one"), snapshot(2, "two"), text(3, " three"), finished(4));
        try (var events = chat()) {
            assertThat(events.rest()).containsExactly("{\"text\":\"one\"}", "{\"error\":\"TEXT_REPLACED\"}");
        }
    }

    @Test
    void aBrowserThatLeavesEndsItsCallWhileNothingIsWritten() throws Exception {
        parley.script(accepted(0), text(1, "one"), new Await(never), finished(2));
        try (var events = browser.open("POST", "/ask", "{}")) {
            assertThat(events.next()).contains("reply-1");
            assertThat(events.next()).contains("one");
        }
        assertThat(parley.calls.get(0).cancelled.await(20, TimeUnit.SECONDS)).isTrue();
    }

    @Test
    void aSilentStreamIsKeptAliveAndLeavingEndsItsCall() throws Exception {
        parley.script(accepted(0), new Await(never), finished(1));
        try (var events = chat()) {
            assertThat(events.line()).isEqualTo(": alive");
            assertThat(events.line()).isEmpty();
            assertThat(events.line()).isEqualTo(": alive");
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
        var restarted = run();
        parley.script(accepted(0), new Await(never), finished(1));
        try (var events = new Browser(ChatApplication.port(restarted)).open("POST", "/chat", "{}")) {
            assertThat(events.line()).isEqualTo(": alive");
            long start = System.nanoTime();
            restarted.close();
            assertThat(events.rest()).isEmpty();
            assertThat(System.nanoTime() - start).isLessThan(TimeUnit.SECONDS.toNanos(20)); // Netty would wait for 30 s
        }
    }
}
