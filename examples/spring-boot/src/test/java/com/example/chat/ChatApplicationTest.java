package com.example.chat;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.jayway.jsonpath.JsonPath;
import dev.parley.client.ParleyClient;
import dev.parley.client.testing.Browser;
import dev.parley.client.testing.ParleyServer;
import java.net.http.HttpResponse;
import java.time.Instant;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.DisplayName;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.springframework.beans.factory.annotation.Autowired;
import org.springframework.boot.Banner;
import org.springframework.boot.builder.SpringApplicationBuilder;
import org.springframework.boot.test.context.SpringBootTest;
import org.springframework.boot.test.context.SpringBootTest.WebEnvironment;
import org.springframework.boot.test.web.server.LocalServerPort;
import org.springframework.context.ConfigurableApplicationContext;
import org.springframework.security.oauth2.jose.jws.MacAlgorithm;
import org.springframework.security.oauth2.jwt.JwsHeader;
import org.springframework.security.oauth2.jwt.JwtClaimsSet;
import org.springframework.security.oauth2.jwt.JwtEncoder;
import org.springframework.security.oauth2.jwt.JwtEncoderParameters;
import org.springframework.test.context.DynamicPropertyRegistry;
import org.springframework.test.context.DynamicPropertySource;

/** The application over HTTP, with a real Parley server that allows each user ten messages a minute. */
@SpringBootTest(webEnvironment = WebEnvironment.RANDOM_PORT, properties = "spring.main.banner-mode=off")
@Timeout(60)
class ChatApplicationTest {
    private static final String KEY = "a key of the tests that is long enough";
    private static final ParleyServer PARLEY =
            ParleyServer.start("[tenants.default]\nlimits = { messages_per_minute = 10 }\n");
    private static final String SLOW = "/script {\"text\": \"na \", \"repeat\": 400, \"delay_s\": 0.02}";

    @LocalServerPort
    int port;

    @Autowired
    JwtEncoder tokens;

    @Autowired
    ParleyClient parley;

    private final String user = "ada-" + UUID.randomUUID();
    private final String conversation = "scene-" + UUID.randomUUID();

    @DynamicPropertySource
    static void settings(DynamicPropertyRegistry properties) {
        properties.add("parley.address", PARLEY::address);
        properties.add("chat.jwt-key", () -> KEY);
        properties.add("chat.page", () -> "not-built");
    }

    @AfterAll
    static void stop() { PARLEY.close(); }

    private String token(String name, Instant expiry) {
        var claims = JwtClaimsSet.builder().subject(name);
        claims = expiry == null ? claims : claims.issuedAt(expiry.minusSeconds(60)).expiresAt(expiry);
        var header = JwsHeader.with(MacAlgorithm.HS256).build();
        return tokens.encode(JwtEncoderParameters.from(header, claims.build())).getTokenValue();
    }

    private Browser browser(int port, String name) {
        return new Browser(port, "Authorization", "Bearer " + token(name, Instant.now().plusSeconds(600)));
    }

    private Browser browser() { return browser(port, user); }

    private static String question(String content) {
        return "{\"content\": \"" + content.replace("\"", "\\\"") + "\"}";
    }

    private String messages() { return "/api/conversations/" + conversation + "/messages"; }

    private String start(String content) {
        var answer = browser().post(messages(), question(content));
        assertThat(answer.statusCode()).isEqualTo(202);
        assertThat(JsonPath.<String>read(answer.body(), "$.status")).isEqualTo("processing");
        return JsonPath.read(answer.body(), "$.task_id");
    }

    private HttpResponse<String> ended(String task) {
        HttpResponse<String> answer = browser().get("/api/tasks/" + task + "?wait=20");
        while (answer.body().contains("\"processing\"")) {
            answer = browser().get("/api/tasks/" + task + "?wait=20");
        }
        return answer;
    }

    private static int port(ConfigurableApplicationContext context) {
        return context.getEnvironment().getRequiredProperty("local.server.port", Integer.class);
    }

    /** Another process of the application, with other properties. */
    private static ConfigurableApplicationContext another(Map<String, String> properties) {
        var all = new HashMap<>(Map.of("server.port", "0", "chat.jwt-key", KEY, "parley.address", PARLEY.address()));
        all.putAll(properties);
        return new SpringApplicationBuilder(ChatApplication.class)
                .bannerMode(Banner.Mode.OFF)
                .run(all.entrySet().stream().map(each -> "--" + each.getKey() + "=" + each.getValue()).toArray(String[]::new));
    }

    @Test
    @DisplayName("S0.1: a message is answered with a task, whose chunks grow until the final message is there")
    void aMessageIsAnsweredByATask() {
        String task = start("/script {\"text\": \"one two three \", \"repeat\": 10, \"delay_s\": 0.03}");
        List<String> before = new ArrayList<>();
        String body = browser().get("/api/tasks/" + task).body();
        while (body.contains("\"processing\"")) {
            List<String> chunks = JsonPath.read(body, "$.chunks");
            assertThat(chunks.subList(0, before.size())).isEqualTo(before);
            assertThat(JsonPath.<Object>read(body, "$.final_message")).isNull();
            before = chunks;
            body = browser().get("/api/conversations/tasks/" + task + "?wait=5&after=" + before.size()).body();
        }
        assertThat(before).startsWith("one ", "two ");
        assertThat(JsonPath.<List<String>>read(body, "$.chunks")).isEmpty();
        assertThat(JsonPath.<String>read(body, "$.status")).isEqualTo("completed");
        assertThat(JsonPath.<String>read(body, "$.final_message.content")).isEqualTo("one two three ".repeat(10));
        assertThat(JsonPath.<String>read(body, "$.final_message.role")).isEqualTo("assistant");
        assertThat(Instant.parse(JsonPath.read(body, "$.final_message.created_at"))).isBefore(Instant.now());
        assertThat(JsonPath.<Object>read(body, "$.error")).isNull();
    }

    @Test
    @DisplayName("S0.1: a task that fails has the sentence of the failure")
    void aTaskThatFailsHasASentence() {
        String task = start("/script {\"text\": \"one two\", \"delay_s\": 0, \"fault\": {\"kind\": \"error\", \"after\": 1}}");
        String body = ended(task).body();
        assertThat(JsonPath.<String>read(body, "$.status")).isEqualTo("failed");
        assertThat(JsonPath.<String>read(body, "$.error")).isNotEmpty();
        assertThat(JsonPath.<List<String>>read(body, "$.chunks")).isNotEmpty();
    }

    @Test
    @DisplayName("S0.2: every process of the application answers for a task, until its time is over")
    void everyProcessAnswersForATaskUntilItExpires() {
        try (var second = another(Map.of("chat.task-ttl", "2s"))) {
            String task = start("/script {\"text\": \"one two \", \"repeat\": 20, \"delay_s\": 0.03}");
            Browser other = browser(port(second), user);
            var answer = other.get("/api/tasks/" + task + "?wait=20");
            assertThat(answer.statusCode()).isEqualTo(200);
            while (answer.statusCode() == 200) {
                answer = other.get("/api/tasks/" + task + "?wait=20");
            }
            assertThat(answer.statusCode()).isEqualTo(404);
            assertThat(answer.body()).contains("\"code\":\"REPLY_NOT_FOUND\"");
            assertThat(browser().get("/api/tasks/" + task).statusCode()).isEqualTo(200);
        }
    }

    @Test
    @DisplayName("S0.5: the 11th message in a minute is refused with the seconds to wait")
    void theEleventhMessageInAMinuteIsRefused() {
        for (int i = 0; i < 10; i++) {
            ended(start("/script {\"text\": \"a\", \"delay_s\": 0}"));
        }
        var refused = browser().post(messages(), question("Hi"));
        assertThat(refused.statusCode()).isEqualTo(429);
        assertThat(JsonPath.<String>read(refused.body(), "$.code")).isEqualTo("RATE_LIMITED");
        assertThat(Integer.parseInt(refused.headers().firstValue("Retry-After").orElseThrow())).isBetween(1, 60);
        var other = browser(port, "ben-" + user);
        assertThat(other.post("/api/conversations/ben-" + conversation + "/messages", question("Hi")).statusCode()).isEqualTo(202);
    }

    @Test
    @DisplayName("S0.6: only the owner of a conversation may write to it or read its tasks")
    void onlyTheOwnerMayWriteAndRead() {
        String task = start("Hi");
        Browser ben = browser(port, "ben-" + user);
        assertThat(ben.post(messages(), question("Hi")).statusCode()).isEqualTo(404);
        assertThat(ben.get("/api/tasks/" + task).statusCode()).isEqualTo(404);
        assertThat(browser().get("/api/tasks/unknown").statusCode()).isEqualTo(404);
    }

    @Test
    @DisplayName("S0.6: without a valid token nothing is answered")
    void aValidTokenIsNeeded() {
        String[] wrong = {
            "none", token(user, Instant.now().minusSeconds(1)), token(user, null), token("zoë", Instant.now().plusSeconds(60)),
            token(user, Instant.now().plusSeconds(600)) + "x"
        };
        for (String each : wrong) {
            var answer = new Browser(port, "Authorization", "Bearer " + each).post(messages(), question("Hi"));
            assertThat(answer.statusCode()).isEqualTo(401);
            assertThat(JsonPath.<String>read(answer.body(), "$.code")).isEqualTo("UNAUTHENTICATED");
        }
        assertThat(new Browser(port).get("/api/page/conversations").statusCode()).isEqualTo(401);
        assertThatThrownBy(() -> another(Map.of("chat.jwt-key", "short")).close()).hasStackTraceContaining("CHAT_JWT_KEY must have at least 32 bytes");
    }

    @Test
    @DisplayName("S0.7, S0.8: the scenario is the system prompt, and the policy of the context is set")
    void theScenarioIsTheSystemPrompt() {
        browser().post(messages(), "{\"content\": \"Hi\", \"scenario_id\": \"station\"}");
        var stored = parley.actingFor(user).conversations().get(conversation);
        assertThat(stored.getSystem(0)).startsWith("You are Ilse");
        assertThat(stored.getTitle()).isEqualTo("Hi");
        assertThat(stored.getContext().getMaxMessages()).isZero();
        assertThat(stored.getContext().getMaxTokens()).isEqualTo(10_000);
        assertThat(stored.getContext().getReminder()).contains("Ilse");
        assertThat(stored.getContext().getReminderInterval()).isEqualTo(50);
        var unknown = browser().post(messages(), "{\"content\": \"Hi\", \"scenario_id\": \"none\"}");
        assertThat(unknown.statusCode()).isEqualTo(400);
    }

    @Test
    @DisplayName("S0.10: without Parley a message is answered with 503 and a sentence")
    void withoutParleyAMessageIsRefused() {
        try (var alone = another(Map.of("parley.address", "127.0.0.1:9", "parley.backoff.max-elapsed", "0s", "chat.demo-login", "on"))) {
            var token = new Browser(port(alone)).post("/api/login", "{\"name\": \"ada\"}");
            assertThat(JsonPath.<Integer>read(token.body(), "$.expires_in")).isPositive();
            Browser ada = new Browser(port(alone), "Authorization", "Bearer " + JsonPath.read(token.body(), "$.token"));
            var answer = ada.post(messages(), question("Hi"));
            assertThat(answer.statusCode()).isEqualTo(503);
            assertThat(answer.body()).contains("cannot be reached").doesNotContain("127.0.0.1").contains("\"retryable\":true");
            assertThat(new Browser(port(alone)).get("/api/page/config").body()).contains("\"login\":\"demo\"");
            assertThat(ada.post("/api/login", "{\"name\": \"a b\"}").statusCode()).isEqualTo(400);
        }
        assertThat(new Browser(port).post("/api/login", "{\"name\": \"ada\"}").statusCode()).isEqualTo(404);
    }

    @Test
    @DisplayName("S0.11: the cost of each answer is known")
    void theCostOfAnAnswerIsKnown() {
        ended(start("/script {\"text\": \"one\", \"delay_s\": 0}"));
        var page = browser().get("/api/page/conversations/" + conversation + "/messages");
        assertThat(JsonPath.<Double>read(page.body(), "$.messages[1].reply.cost_usd")).isPositive();
    }

    @Test
    @DisplayName("S0.12: a streamed answer, a second message beside it, and stop")
    void anAnswerIsStreamedAndStopped() throws Exception {
        try (var events = browser().open("POST", messages() + "/stream", question(SLOW), "Idempotency-Key", "once-" + conversation)) {
            String first = events.next();
            String task = JsonPath.read(first, "$.reply_id");
            assertThat(events.next()).contains("\"type\":\"text\"");
            var second = browser().post(messages(), question("Hi"));
            assertThat(second.statusCode()).isEqualTo(409);
            assertThat(JsonPath.<String>read(second.body(), "$.task_id")).isEqualTo(task);
            assertThat(JsonPath.<String>read(second.body(), "$.code")).isEqualTo("REPLY_IN_PROGRESS");
            var again = browser().post(messages(), question(SLOW), "Idempotency-Key", "once-" + conversation);
            assertThat(JsonPath.<String>read(again.body(), "$.task_id")).isEqualTo(task);
            browser().post("/api/page/conversations/" + conversation + "/stop", "{}");
            List<String> rest = events.rest();
            assertThat(rest.get(rest.size() - 1)).contains("\"reason\":\"CANCELLED\"");
            assertThat(JsonPath.<String>read(ended(task).body(), "$.final_message.content")).startsWith("na na");
        }
    }

    @Test
    void allErrorsHaveTheSameJson() {
        Browser ada = browser();
        HttpResponse<?>[] answers = {
            ada.post(messages(), question("  ")), ada.post(messages(), "{"), ada.post(messages(), "{\"content\": 7}"), ada.get(messages()), ada.get("/api/nowhere"),
            ada.post(messages(), question("a".repeat(1_100_000))), ada.get("/"), ada.get("/api/tasks/a;b=c//d"), ada.get("/api/tasks/a%2fb")
        };
        int[] statuses = {400, 400, 400, 405, 404, 413, 404, 400, 400};
        for (int i = 0; i < statuses.length; i++) {
            String body = (String) answers[i].body();
            assertThat(answers[i].statusCode()).as(body).isEqualTo(statuses[i]);
            assertThat(JsonPath.<java.util.Map<String, Object>>read(body, "$").keySet())
                    .containsExactly("message", "error", "code", "retryable");
        }
    }
}
