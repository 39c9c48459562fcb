package com.example.chat;

import static org.assertj.core.api.Assertions.assertThat;

import com.jayway.jsonpath.JsonPath;
import dev.parley.client.testing.ParleyServer;
import io.micrometer.core.instrument.MeterRegistry;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.springframework.beans.factory.annotation.Autowired;
import org.springframework.boot.test.context.SpringBootTest;
import org.springframework.boot.test.context.SpringBootTest.WebEnvironment;
import org.springframework.boot.test.web.server.LocalServerPort;
import org.springframework.test.context.DynamicPropertyRegistry;
import org.springframework.test.context.DynamicPropertySource;

/** The application over HTTP, with a real Parley server. */
@SpringBootTest(webEnvironment = WebEnvironment.RANDOM_PORT, properties = {"chat.keep-alive=100ms", "spring.main.banner-mode=off"})
@Timeout(30)
class ChatApplicationTest {
    private static final ParleyServer PARLEY = ParleyServer.start();
    private static final String SLOW = "/script {\"text\": \"na \", \"repeat\": 60, \"delay_s\": 0.02}";

    @LocalServerPort
    int port;

    @Autowired
    MeterRegistry meters;

    private final HttpClient http = HttpClient.newHttpClient();

    @DynamicPropertySource
    static void address(DynamicPropertyRegistry properties) { properties.add("parley.address", PARLEY::address); }

    @AfterAll
    static void stop() { PARLEY.close(); }

    /** A server-sent event. */
    private record Event(String id, String name, String data) {
        String get(String field) { return JsonPath.read(data, "$." + field).toString(); }
    }

    /** Reads server-sent events. */
    private static final class Events implements AutoCloseable {
        private final BufferedReader lines;

        Events(InputStream body) { lines = new BufferedReader(new InputStreamReader(body, StandardCharsets.UTF_8)); }

        /** The next event; null at the end. */
        Event next() throws IOException {
            String id = null;
            String name = null;
            String data = null;
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                if (line.isEmpty() && data != null) {
                    return new Event(id, name, data);
                }
                id = line.startsWith("id:") ? line.substring(3) : id;
                name = line.startsWith("event:") ? line.substring(6) : name;
                data = line.startsWith("data:") ? line.substring(5) : data;
            }
            return null;
        }

        List<Event> rest() throws IOException {
            List<Event> events = new ArrayList<>();
            for (Event event = next(); event != null; event = next()) {
                events.add(event);
            }
            return events;
        }

        @Override
        public void close() throws IOException { lines.close(); }
    }

    private HttpRequest.Builder to(String path) {
        return HttpRequest.newBuilder(URI.create("http://localhost:" + port + path));
    }

    private Events open(HttpRequest.Builder request) throws IOException, InterruptedException {
        var response = http.send(request.build(), HttpResponse.BodyHandlers.ofInputStream());
        assertThat(response.statusCode()).isEqualTo(200);
        assertThat(response.headers().firstValue("content-type").orElseThrow()).startsWith("text/event-stream");
        return new Events(response.body());
    }

    private HttpRequest.Builder question(String text) {
        return to("/chat?requestId=" + UUID.randomUUID() + "&text=" + URLEncoder.encode(text, StandardCharsets.UTF_8));
    }

    private HttpRequest.Builder post(String path, String json) {
        return to(path).header("content-type", "application/json").POST(HttpRequest.BodyPublishers.ofString(json));
    }

    private static String text(List<Event> events) {
        return events.stream().filter(event -> event.name().equals("chunk")).map(event -> event.get("text")).collect(Collectors.joining());
    }

    @Test
    void aReplyIsStreamed() throws Exception {
        try (Events events = open(post("/chat", "{\"text\": \"/script {\\\"text\\\": \\\"one two\\\", \\\"delay_s\\\": 0}\"}"))) {
            List<Event> all = events.rest();
            assertThat(all.get(0).name()).isEqualTo("accepted");
            assertThat(text(all)).isEqualTo("one two");
            assertThat(all.get(all.size() - 1).name()).isEqualTo("done");
            assertThat(all.get(all.size() - 1).get("reason")).isEqualTo("STOP");
        }
    }

    @Test
    void aReconnectGetsTheRestAndLeavingEndsTheCall() throws Exception {
        List<Event> seen = new ArrayList<>();
        double before = left();
        try (Events events = open(question(SLOW))) {
            for (int i = 0; i < 5; i++) {
                seen.add(events.next());
            }
        }
        String last = seen.get(4).id();
        for (int i = 0; i < 40 && left() == before; i++) {
            TimeUnit.MILLISECONDS.sleep(50);
        }
        assertThat(left()).isEqualTo(before + 1);
        try (Events events = open(question(SLOW).header("Last-Event-ID", last))) {
            seen.addAll(events.rest());
        }
        assertThat(text(seen)).isEqualTo("na ".repeat(60));
        assertThat(seen.get(seen.size() - 1).get("reason")).isEqualTo("STOP");
    }

    private double left() {
        var timer = meters.find("parley.stream").tag("outcome", "LEFT").timer();
        return timer == null ? 0 : timer.count();
    }

    @Test
    void leavingEndsTheCallWhileTheModelIsSilent() throws Exception {
        double before = left();
        try (Events events = open(question("/script {\"text\": \"a\", \"first_token_delay_s\": 20}"))) {
            assertThat(events.next().name()).isEqualTo("accepted");
        }
        for (int i = 0; i < 40 && left() == before; i++) {
            TimeUnit.MILLISECONDS.sleep(50);
        }
        assertThat(left()).isEqualTo(before + 1);
    }

    @Test
    void aReplyIsCancelled() throws Exception {
        try (Events events = open(question(SLOW))) {
            String replyId = events.next().get("replyId");
            var answer = http.send(
                    post("/stop", "{\"replyId\": \"" + replyId + "\"}").build(), HttpResponse.BodyHandlers.ofString());
            assertThat(answer.body()).contains("STATE_CANCELLED");
            List<Event> rest = events.rest();
            assertThat(rest.get(rest.size() - 1).get("reason")).isEqualTo("CANCELLED");
        }
        var unknown = http.send(post("/stop", "{\"replyId\": \"nobody\"}").build(), HttpResponse.BodyHandlers.ofString());
        assertThat(unknown.statusCode()).isEqualTo(404);
        assertThat(unknown.body()).contains("REPLY_NOT_FOUND");
    }

    @Test
    void aReplyIsCancelledBeforeItStarts() throws Exception {
        var early = http.send(post("/stop", "{\"requestId\": \"second-thought\"}").build(), HttpResponse.BodyHandlers.discarding());
        assertThat(early.statusCode()).isEqualTo(202);
        try (Events events = open(post("/chat", "{\"requestId\": \"second-thought\", \"text\": \"Hi\"}"))) {
            List<Event> all = events.rest();
            assertThat(all.get(all.size() - 1).get("reason")).isEqualTo("CANCELLED");
        }
        var nothing = http.send(post("/stop", "{}").build(), HttpResponse.BodyHandlers.discarding());
        assertThat(nothing.statusCode()).isEqualTo(400);
    }

    @Test
    void aFailureIsSentAsAnError() throws Exception {
        String script = "/script {\"text\": \"one two\", \"delay_s\": 0, \"fault\": {\"kind\": \"error\", \"after\": 1}}";
        try (Events events = open(question(script))) {
            List<Event> all = events.rest();
            Event last = all.get(all.size() - 1);
            assertThat(last.name()).isEqualTo("error");
            assertThat(last.get("reason")).isEqualTo("PROVIDER_UNAVAILABLE");
            assertThat(last.get("retryable")).isEqualTo("true");
            assertThat(text(all)).startsWith("one");
        }
    }

    @Test
    void theHealthOfTheServerIsPartOfTheApplication() throws Exception {
        var answer = http.send(to("/actuator/health").build(), HttpResponse.BodyHandlers.ofString());
        assertThat(JsonPath.<String>read(answer.body(), "$.components.parley.details.server")).isEqualTo("SERVING");
    }
}
