package dev.parley.spring.web;

import static org.assertj.core.api.Assertions.assertThat;

import com.google.protobuf.ByteString;
import com.jayway.jsonpath.JsonPath;
import dev.parley.client.ParleyClient;
import dev.parley.client.testing.Browser;
import dev.parley.client.testing.ParleyServer;
import dev.parley.v1.Conversation;
import dev.parley.v1.CreateConversationRequest;
import dev.parley.v1.Image;
import dev.parley.v1.Message;
import dev.parley.v1.Part;
import dev.parley.v1.Reply;
import dev.parley.v1.ReplyRequest;
import dev.parley.v1.Role;
import java.net.http.HttpResponse;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Base64;
import java.util.List;
import java.util.UUID;
import java.util.stream.IntStream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.springframework.context.ConfigurableApplicationContext;

/** The routes of the chat page over HTTP, with a real server. */
@Timeout(60)
class PageRoutesTest {
    private static final String SLOW = "/script {\"text\": \"na \", \"repeat\": 600, \"delay_s\": 0.02}";
    private static final String BROKEN = "/script {\"text\": \"\", \"fault\": {\"kind\": \"error\", \"after\": 0}}";
    private static final byte[] PIXEL = Base64.getDecoder().decode(
            "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==");

    static ParleyServer parley;
    static ConfigurableApplicationContext application;

    private final String user = "ada-" + UUID.randomUUID();
    private final Browser browser = new Browser(ChatApplication.port(application), "X-User", user);
    private final ParleyClient client = application.getBean(ParleyClient.class).actingFor(user);

    @BeforeAll
    static void start() {
        parley = ParleyServer.start();
        application = ChatApplication.run(parley.address());
    }

    @AfterAll
    static void stop() {
        application.close();
        parley.close();
    }

    private static <T> T read(HttpResponse<String> answer, String path) {
        assertThat(answer.statusCode()).isEqualTo(200);
        return JsonPath.read(answer.body(), path);
    }

    private Reply reply(String conversation, String text) {
        client.conversations().ensure(Conversation.newBuilder().setId(conversation).build(), "What is a\nlighthouse?");
        return client.createReply(ReplyRequest.newBuilder().setConversationId(conversation).setText(text).build());
    }

    private Reply running(String conversation) {
        client.conversations().ensure(Conversation.newBuilder().setId(conversation).build(), "Go on");
        return client.createReply(ReplyRequest.newBuilder()
                .setConversationId(conversation).setText(SLOW).setRequestId(conversation)
                .setWait(com.google.protobuf.Duration.getDefaultInstance()).build());
    }

    private String conversation() { return "scene-" + UUID.randomUUID(); }

    private static String path(String conversation, String rest) { return "/api/page/conversations/" + conversation + rest; }

    @Test
    void theConfigurationNeedsNoUser() {
        var answer = new Browser(ChatApplication.port(application)).get("/api/page/config");
        assertThat(answer.statusCode()).isEqualTo(200);
        assertThat(answer.body()).isEqualTo("{\"wire\":\"tasks\",\"login\":\"token\",\"images\":false,\"title\":\"Scenes\"}");
    }

    @Test
    void allElseNeedsOne() {
        var answer = new Browser(ChatApplication.port(application)).get("/api/page/conversations");
        assertThat(answer.statusCode()).isEqualTo(401);
        assertThat(answer.body()).contains("\"code\":\"UNAUTHENTICATED\"");
    }

    @Test
    void conversationsAreListedReadAndDeleted() {
        String id = conversation();
        reply(id, "/script {\"text\": \"A tower.\", \"delay_s\": 0}");
        var list = browser.get("/api/page/conversations");
        assertThat(JsonPath.<List<String>>read(list.body(), "$.conversations[*].id")).containsExactly(id);
        assertThat(JsonPath.<String>read(list.body(), "$.conversations[0].title")).isEqualTo("What is a lighthouse?");
        assertThat(JsonPath.<Object>read(list.body(), "$.next_page_token")).isNull();
        var one = browser.get(path(id, ""));
        assertThat(JsonPath.<Object>read(one.body(), "$.active_reply_id")).isNull();
        assertThat(JsonPath.<String>read(one.body(), "$.create_time")).matches("\\d{4}-\\d\\d-\\d\\dT[\\d:.]+Z");
        assertThat(browser.delete(path(id, "")).statusCode()).isEqualTo(204);
        assertThat(browser.get(path(id, "")).statusCode()).isEqualTo(404);
    }

    @Test
    void aConversationOfAnotherUserIsNotFound() {
        String id = conversation();
        reply(id, "Hi");
        var ben = new Browser(ChatApplication.port(application), "X-User", "ben");
        for (String rest : List.of("", "/messages", "/stream")) {
            assertThat(ben.get(path(id, rest)).statusCode()).isEqualTo(404);
        }
        assertThat(ben.post(path(id, "/stop"), "{}").statusCode()).isEqualTo(404);
        assertThat(ben.delete(path(id, "")).statusCode()).isEqualTo(404);
    }

    @Test
    void messagesAreListedOldestFirstWithTheirReplies() {
        String id = conversation();
        reply(id, "/script {\"text\": \"one\", \"delay_s\": 0}");
        reply(id, "/script {\"text\": \"two three\", \"delay_s\": 0, \"fault\": {\"kind\": \"error\", \"after\": 1}}");
        var page = browser.get(path(id, "/messages"));
        assertThat(JsonPath.<List<String>>read(page.body(), "$.messages[*].role"))
                .containsExactly("user", "assistant", "user", "assistant");
        assertThat(JsonPath.<String>read(page.body(), "$.messages[1].text")).isEqualTo("one");
        assertThat(JsonPath.<String>read(page.body(), "$.messages[1].reply.state")).isEqualTo("completed");
        assertThat(JsonPath.<String>read(page.body(), "$.messages[1].reply.finish_reason")).isEqualTo("STOP");
        assertThat(JsonPath.<Double>read(page.body(), "$.messages[1].reply.cost_usd")).isPositive();
        assertThat(JsonPath.<Boolean>read(page.body(), "$.messages[3].partial")).isTrue();
        assertThat(JsonPath.<String>read(page.body(), "$.messages[3].reply.state")).isEqualTo("failed");
        assertThat(JsonPath.<String>read(page.body(), "$.messages[3].reply.error.code")).isEqualTo("PROVIDER_UNAVAILABLE");
    }

    @Test
    void aReplyWithoutTextIsListedAndCanBeTriedAgain() throws Exception {
        String id = conversation();
        Reply failed = reply(id, BROKEN);
        assertThat(failed.getState()).isEqualTo(Reply.State.STATE_FAILED);
        var page = browser.get(path(id, "/messages"));
        assertThat(JsonPath.<List<String>>read(page.body(), "$.messages[*].role")).containsExactly("user", "assistant");
        assertThat(JsonPath.<String>read(page.body(), "$.messages[1].text")).isEmpty();
        String again = "{\"replace_message_id\": \"" + JsonPath.read(page.body(), "$.messages[1].id") + "\"}";
        for (int i = 0; i < 2; i++) { // the second time with the same key: the same reply
            try (var events = browser.open("POST", path(id, "/retry"), again, "Idempotency-Key", "again-" + id)) {
                var all = events.rest();
                assertThat(all.get(0)).contains("\"type\":\"reply\"").doesNotContain(failed.getId());
                assertThat(all.get(all.size() - 1)).contains("\"type\":\"failed\"").contains("\"message_id\":\"");
                Reply retried = client.getReply(JsonPath.read(all.get(0), "$.reply_id"));
                assertThat(retried.getLabelsMap()).containsEntry("by", "retry");
            }
        }
        assertThat(browser.post(path(id, "/retry"), "{}").statusCode()).isEqualTo(400);
    }

    @Test
    void pagesOfMessagesContinueTheirBranchWhileAnAnswerBegins() {
        String id = conversation();
        var messages = IntStream.range(0, 60).mapToObj(i -> Message.newBuilder()
                .setRole(i % 2 == 0 ? Role.ROLE_USER : Role.ROLE_ASSISTANT)
                .addParts(Part.newBuilder().setText("text " + i)).build()).toList();
        client.conversations().create(CreateConversationRequest.newBuilder()
                .setConversation(Conversation.newBuilder().setId(id)).addAllMessages(messages).build());
        var first = browser.get(path(id, "/messages"));
        assertThat(JsonPath.<String>read(first.body(), "$.messages[0].text")).isEqualTo("text 10");
        running(id);
        var second = browser.get(path(id, "/messages?page_token=" + JsonPath.read(first.body(), "$.next_page_token")));
        assertThat(JsonPath.<List<String>>read(second.body(), "$.messages[*].text"))
                .isEqualTo(IntStream.range(0, 10).mapToObj(i -> "text " + i).toList());
        assertThat(JsonPath.<Object>read(second.body(), "$.next_page_token")).isNull();
        assertThat(browser.get(path(id, "/messages?page_token=nonsense")).statusCode()).isEqualTo(400);
        client.conversations().delete(id);
    }

    @Test
    void aReplyWithoutTextIsLeftOutWhileItIsTriedAgain() {
        String id = conversation();
        client.conversations().ensure(Conversation.newBuilder().setId(id).build(), "Think");
        var request = ReplyRequest.newBuilder().setConversationId(id).setWait(com.google.protobuf.Duration.getDefaultInstance());
        Reply stopped = client.createReply(request.setText("/script {\"text\": \"a\", \"first_token_delay_s\": 60}").build());
        client.cancel(stopped.getId());
        assertThat(browser.get(path(id, "/messages")).body()).contains(stopped.getId());
        Reply again = client.createReply(request.clearText().setReplaceMessageId(stopped.getMessageId()).build());
        var page = browser.get(path(id, "/messages"));
        assertThat(page.body()).doesNotContain(stopped.getId());
        assertThat(JsonPath.<String>read(page.body(), "$.active_reply_id")).isEqualTo(again.getId());
        client.conversations().delete(id);
    }

    @Test
    void aSecondTabReadsTheRunningReplyFromItsCursor() throws Exception {
        String id = conversation();
        Reply running = running(id);
        try (var first = browser.open("GET", path(id, "/stream"), null)) {
            assertThat(first.next()).contains("\"reply_id\":\"" + running.getId() + "\"").contains("\"after\":0");
            String text = first.next();
            int sequence = JsonPath.read(text, "$.sequence");
            String query = "/stream?reply_id=" + running.getId() + "&after=" + sequence;
            try (var second = browser.open("GET", path(id, query), null)) {
                assertThat(second.next()).contains("\"after\":" + sequence);
                assertThat(JsonPath.<Integer>read(second.next(), "$.sequence")).isGreaterThan(sequence);
                assertThat(read(browser.post(path(id, "/stop"), "{}"), "$.status").toString()).isEqualTo("cancelled");
                for (var tab : List.of(first, second)) {
                    var rest = tab.rest();
                    assertThat(rest.get(rest.size() - 1)).contains("\"reason\":\"CANCELLED\"").contains("user_cancelled");
                }
            }
            try (var other = browser.open("GET", path(id, "/stream?reply_id=other&after=5"), null)) {
                assertThat(other.response.statusCode()).isEqualTo(204);
            }
        }
        assertThat(browser.get(path(id, "/stream?after=x")).statusCode()).isEqualTo(400);
    }

    @Test
    void theCursorOfAnotherReplyIsIgnored() throws Exception {
        String id = conversation();
        running(id);
        try (var events = browser.open("GET", path(id, "/stream?reply_id=other&after=7"), null)) {
            assertThat(events.next()).contains("\"after\":0");
        }
        client.conversations().delete(id);
    }

    @Test
    void stopAnswersWhatItFound() {
        String id = conversation();
        reply(id, "Hi");
        var nothing = browser.post(path(id, "/stop"), "{}");
        assertThat(nothing.statusCode()).isEqualTo(409);
        assertThat(nothing.body()).contains("No answer is being written.");
        var early = browser.post(path(id, "/stop"), "{\"request_id\": \"early-" + id + "\"}");
        assertThat(early.statusCode()).isEqualTo(202);
        assertThat(early.body()).isEqualTo("{\"status\":\"cancelled\"}");
        Reply cancelled = client.createReply(ReplyRequest.newBuilder()
                .setConversationId(id).setText("Hi").setRequestId("early-" + id).build());
        assertThat(cancelled.getState()).isEqualTo(Reply.State.STATE_CANCELLED);
        String done = client.createReply(ReplyRequest.newBuilder()
                .setConversationId(id).setText("/script {\"text\": \"a\", \"delay_s\": 0}").setRequestId("done-" + id).build()).getRequestId();
        assertThat(read(browser.post(path(id, "/stop"), "{\"request_id\": \"" + done + "\"}"), "$.status").toString())
                .isEqualTo("already_finished");
        assertThat(browser.post(path("none-" + id, "/stop"), "{}").statusCode()).isEqualTo(404);
    }

    @Test
    void anImageIsServedSoThatItCannotRun() {
        String id = conversation();
        client.conversations().ensure(Conversation.newBuilder().setId(id).build(), "Look");
        var image = Image.newBuilder().setData(ByteString.copyFrom(PIXEL)).setMimeType("image/png");
        var question = Message.newBuilder().setRole(Role.ROLE_USER)
                .addParts(Part.newBuilder().setText("Look")).addParts(Part.newBuilder().setImage(image));
        client.createReply(ReplyRequest.newBuilder().setConversationId(id).addInput(question).build());
        var page = browser.get(path(id, "/messages"));
        String imageId = JsonPath.read(page.body(), "$.messages[0].images[0].id");
        var bytes = browser.bytes("/api/page/images/" + imageId);
        assertThat(bytes.body()).isEqualTo(PIXEL);
        assertThat(bytes.headers().map()).containsEntry("content-type", List.of("image/png"))
                .containsEntry("x-content-type-options", List.of("nosniff"))
                .containsEntry("content-security-policy", List.of("sandbox"))
                .containsEntry("cache-control", List.of("private, max-age=31536000, immutable"));
        assertThat(browser.get("/api/page/images/none").statusCode()).isEqualTo(404);
    }

    @Test
    void thePageIsServedOnceItIsBuilt() throws Exception {
        Path folder = application.getBean(PageSettings.class).files();
        Files.createDirectories(folder.resolve("assets"));
        Files.deleteIfExists(folder.resolve("index.html"));
        assertThat(browser.get("/").statusCode()).isEqualTo(404);
        assertThat(browser.get("/").body()).contains("npm run build");
        Files.writeString(folder.resolve("index.html"), "<!doctype html><title>Chat</title>");
        Files.writeString(folder.resolve("assets/page.js"), "export {}");
        for (String address : List.of("/", "/c/scene-1")) {
            var html = browser.get(address);
            assertThat(html.body()).contains("<title>Chat</title>");
            assertThat(html.headers().firstValue("content-type").orElseThrow()).isEqualToIgnoringCase("text/html;charset=utf-8");
            assertThat(html.headers().firstValue("content-security-policy").orElseThrow()).contains("script-src 'self'")
                    .contains("frame-ancestors 'none'");
            assertThat(html.headers().map()).containsEntry("x-content-type-options", List.of("nosniff"))
                    .containsEntry("referrer-policy", List.of("no-referrer"))
                    .containsEntry("cache-control", List.of("no-cache"));
        }
        var script = browser.get("/assets/page.js");
        assertThat(script.body()).isEqualTo("export {}");
        assertThat(script.headers().firstValue("cache-control").orElseThrow()).contains("immutable");
        assertThat(script.headers().firstValue("content-type").orElseThrow()).contains("javascript");
        assertThat(browser.get("/assets/none.js").statusCode()).isEqualTo(404);
        assertThat(browser.get("/assets/%2e%2e/index.html").statusCode()).isIn(400, 404);
    }
}
