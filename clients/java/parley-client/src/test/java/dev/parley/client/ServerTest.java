package dev.parley.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.ByteString;
import dev.parley.client.ReplyEvent.Accepted;
import dev.parley.client.ReplyEvent.Finished;
import dev.parley.client.ReplyEvent.Reconnecting;
import dev.parley.client.ReplyEvent.Text;
import dev.parley.client.errors.ConversationNotFoundException;
import dev.parley.client.errors.ReplyFailedException;
import dev.parley.client.errors.UnsupportedInputException;
import dev.parley.client.testing.ParleyServer;
import dev.parley.client.testing.Proxy;
import dev.parley.v1.ContextPolicy;
import dev.parley.v1.ContextPolicy.Overflow;
import dev.parley.v1.Conversation;
import dev.parley.v1.Image;
import dev.parley.v1.Message;
import dev.parley.v1.Part;
import dev.parley.v1.PollReplyRequest;
import dev.parley.v1.Reply;
import dev.parley.v1.ReplyRequest;
import dev.parley.v1.Role;
import dev.parley.v1.Usage;
import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.DisplayName;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** The client against a real server. */
@Timeout(60)
class ServerTest {
    private static final String SLOW = "/script {\"text\": \"na \", \"repeat\": 1000, \"delay_s\": 0.02}";
    static ParleyServer server;

    @BeforeAll
    static void start() { server = ParleyServer.start(); }

    @AfterAll
    static void stop() { server.close(); }

    private static ParleyClient client() { return ParleyClient.builder(server.address()).endUser("ada").build(); }

    @Test
    void theReadmeExampleRuns() {
        PrintStream console = System.out;
        var shown = new ByteArrayOutputStream();
        System.setOut(new PrintStream(shown, true, StandardCharsets.UTF_8));
        try {
            Quickstart.main(new String[] {server.address()});
        } finally {
            System.setOut(console);
        }
        String output = shown.toString(StandardCharsets.UTF_8);
        assertTrue(output.contains("Tell me a story.") && output.endsWith("\n[STOP]\n"), output);
    }

    @Test
    void aDialogueIsStored() {
        try (ParleyClient client = client()) {
            Conversation conversation =
                    client.conversations().create(Conversation.newBuilder().setTitle("Counting").build());
            var request = ReplyRequest.newBuilder()
                    .setConversationId(conversation.getId())
                    .setText("/script {\"text\": \"one two three\", \"delay_s\": 0}")
                    .build();
            Reply reply = client.createReply(request);
            assertEquals(Reply.State.STATE_COMPLETED, reply.getState());
            assertEquals("one two three", reply.getMessage().getParts(0).getText());
            assertEquals(
                    List.of(Role.ROLE_ASSISTANT, Role.ROLE_USER),
                    client.conversations().messages(conversation.getId()).map(Message::getRole).toList());
            String polled = client.polls(PollReplyRequest.newBuilder().setReplyId(reply.getId()).build())
                    .flatMap(answer -> answer.getChunksList().stream())
                    .map(chunk -> chunk.getText())
                    .collect(Collectors.joining());
            assertEquals("one two three", polled);
            assertEquals("scripted", client.models().get(0).getAlias());
            assertEquals("Counting", client.conversations().list().findFirst().orElseThrow().getTitle());
            client.conversations().delete(conversation.getId());
            assertThrows(ConversationNotFoundException.class, () -> client.conversations().get(conversation.getId()));
        }
    }

    @Test
    void aFailedReplyHasItsPartialText() {
        try (ParleyClient client = client()) {
            ReplyStream stream = client.streamReply(
                    "/script {\"text\": \"one two three\", \"delay_s\": 0, \"fault\": {\"kind\": \"truncate\", \"after\": 2}}");
            var failed = assertThrows(ReplyFailedException.class, () -> stream.forEachRemaining(event -> {}));
            assertEquals("PROVIDER_TRUNCATED", failed.reason());
            assertEquals(stream.text(), failed.text());
            assertTrue(failed.text().startsWith("one"), failed.text());
        }
    }

    @Test
    void aCancelledReplyHasItsPartialText() {
        try (ParleyClient client = client(); ReplyStream stream = client.streamReply(SLOW)) {
            stream.next();
            assertInstanceOf(Text.class, stream.next());
            assertEquals(Reply.State.STATE_CANCELLED, stream.cancel("enough").orElseThrow().getState());
            stream.forEachRemaining(event -> {});
            Finished end = stream.finished().orElseThrow();
            assertEquals("CANCELLED", end.reason());
            assertEquals("enough", end.cancelReason());
            assertTrue(end.text().startsWith("na"), end.text());
        }
    }

    @Test
    @DisplayName("S0.3: a fallback answers for a model that cannot be reached")
    void aFallbackAnswers() {
        try (ParleyClient client = client()) {
            var request = ReplyRequest.newBuilder()
                    .setModel("unreachable")
                    .setText("/script {\"text\": \"a b\", \"delay_s\": 0}");
            ReplyStream stream = client.streamReply(request.build());
            assertEquals("unreachable", ((Accepted) stream.next()).model());
            stream.forEachRemaining(event -> {});
            Finished end = stream.finished().orElseThrow();
            assertEquals(List.of("a b", "scripted", "typewriter"), List.of(end.text(), end.model(), end.provider()));
            // The list of a request replaces that of the configuration.
            ReplyStream failing = client.streamReply(request.addFallbackModels("unreachable").build());
            var failed = assertThrows(ReplyFailedException.class, () -> failing.forEachRemaining(event -> {}));
            assertEquals(List.of("unreachable", "gone"), List.of(failed.model(), failed.provider()));
        }
    }

    @Test
    @DisplayName("S0.7, S0.8, S1.1, S1.3: a conversation has system sections, a model and a context policy")
    void aConversationHasSystemSectionsAModelAndAContextPolicy() {
        var given = Conversation.newBuilder()
                .addAllSystem(List.of("You are Ada.", "The scene is a ship."))
                .setPostSystem("Be brief.")
                .setModel("scripted")
                .setContext(ContextPolicy.newBuilder()
                        .setMaxMessages(10)
                        .setMaxTokens(10_000)
                        .setReminder("Stay Ada.")
                        .setReminderInterval(50))
                .build();
        var change = ContextPolicy.newBuilder().setOverflow(Overflow.OVERFLOW_SUMMARIZE).setMaxTokens(5_000).build();
        try (ParleyClient client = client()) {
            Conversation made = client.conversations().create(given);
            Conversation changed = client.conversations().update(
                    Conversation.newBuilder().setId(made.getId()).setContext(change).build(),
                    "context.overflow",
                    "context.max_tokens");
            assertEquals(given.getContext().toBuilder().mergeFrom(change).build(), changed.getContext());
            assertEquals(given.getSystemList(), changed.getSystemList());
            assertEquals(given.getPostSystem(), changed.getPostSystem());
            assertEquals(given.getModel(), changed.getModel());
        }
    }

    @Test
    @DisplayName("S0.11, S2.1: an image goes along with the question; the usage has its cost")
    void anImageGoesAlongWithTheQuestion() {
        ByteString png = ByteString.copyFrom("\u0089PNG\r\n\u001a\n", StandardCharsets.ISO_8859_1)
                .concat(ByteString.copyFrom(new byte[100]));
        var image = Part.newBuilder().setImage(Image.newBuilder().setData(png).setMimeType("image/png"));
        var question = Part.newBuilder().setText("/script {\"text\": \"A dot.\", \"delay_s\": 0}");
        var request = ReplyRequest.newBuilder()
                .addInput(Message.newBuilder().setRole(Role.ROLE_USER).addParts(question).addParts(image));
        try (ParleyClient client = client()) {
            Reply reply = client.createReply(request.build());
            Usage usage = reply.getUsage();
            assertTrue(usage.getPromptTokens() > 0);
            assertEquals(
                    usage.getPromptTokens() * 2_000L + usage.getCompletionTokens() * 8_000L, usage.getCostNanoUsd());
            Message asked = client.conversations().messages(reply.getConversationId()).skip(1).findFirst().orElseThrow();
            String id = asked.getParts(1).getImage().getImageId();
            assertEquals(png, client.conversations().image(id).getData());
            var refused = request.setModel("blind").build();
            assertThrows(UnsupportedInputException.class, () -> client.createReply(refused));
        }
    }

    @Test
    @DisplayName("S3.1: the question is stored at once, the answer after the stream")
    void theQuestionIsStoredAtOnce() {
        try (ParleyClient client = client();
                ReplyStream stream = client.streamReply("/script {\"text\": \"a b c\", \"delay_s\": 0.05}")) {
            stream.next();
            assertEquals(List.of(Role.ROLE_USER), roles(client, stream));
            stream.forEachRemaining(event -> {});
            assertEquals(List.of(Role.ROLE_ASSISTANT, Role.ROLE_USER), roles(client, stream));
        }
    }

    private static List<Role> roles(ParleyClient client, ReplyStream stream) {
        return client.conversations().messages(stream.conversationId()).map(Message::getRole).toList();
    }

    @Test
    void theTextIsExactAfterRepeatedCuts() throws Exception {
        try (Proxy proxy = new Proxy(server.port());
                ParleyClient client = ParleyClient.builder(proxy.address()).build()) {
            int cuts = 0;
            StringBuilder shown = new StringBuilder();
            ReplyStream stream = client.streamReply("/script {\"text\": \"na \", \"repeat\": 200, \"delay_s\": 0.01}");
            for (ReplyEvent event : stream) {
                if (event instanceof Reconnecting) {
                    cuts++;
                } else if (event instanceof Text piece) {
                    shown.append(piece.text());
                    if (shown.length() > (cuts + 1) * 100) {
                        proxy.cut();
                    }
                }
            }
            assertEquals("na ".repeat(200), shown.toString());
            assertEquals(shown.toString(), stream.text());
            assertTrue(cuts >= 3, "cuts: " + cuts);
        }
    }

    @Test
    void aRestartedServerIsFoundAtTheNextAttempt() throws Exception {
        try (ParleyServer mortal = ParleyServer.start();
                ParleyClient client = ParleyClient.builder(mortal.address())
                        .backoff(new Backoff(Duration.ofMillis(100), Duration.ofMillis(200), Duration.ofMinutes(1)))
                        .build();
                ReplyStream stream = client.streamReply("/script {\"text\": \"na \", \"repeat\": 10, \"delay_s\": 0.2}")) {
            assertInstanceOf(Accepted.class, stream.next());
            assertInstanceOf(Text.class, stream.next());
            mortal.kill();
            for (int failures = 0; failures < 4; ) { // gRPC's own backoff would be at seconds by now
                failures += stream.next() instanceof Reconnecting ? 1 : 0;
            }
            mortal.begin();
            long back = System.nanoTime();
            ReplyEvent event = stream.next();
            while (event instanceof Reconnecting) {
                event = stream.next();
            }
            Duration waited = Duration.ofNanos(System.nanoTime() - back);
            assertTrue(waited.toMillis() < 1000, "waited " + waited);
            assertThrows(ReplyFailedException.class, () -> stream.forEachRemaining(later -> {}));
        }
    }

    @Test
    void fiveHundredStreamsShareThreadsAndLeaveNone() throws Exception {
        int count = 500;
        Set<Thread> before = Thread.getAllStackTraces().keySet();
        var texts = new ConcurrentLinkedQueue<String>();
        var running = new CountDownLatch(count);
        int threads;
        try (ParleyClient client = client()) {
            for (int i = 0; i < count; i++) {
                ReplyStream stream = client.streamReply("/script {\"text\": \"na \", \"repeat\": 20, \"delay_s\": 0.05}");
                stream.listen(new ReplyListener() {
                    @Override
                    public void onEvent(ReplyEvent event) {}

                    @Override
                    public void onEnd() {
                        texts.add(stream.text());
                        running.countDown();
                    }

                    @Override
                    public void onError(RuntimeException failure) {
                        texts.add(failure.toString());
                        running.countDown();
                    }
                });
            }
            threads = since(before).size();
            assertTrue(running.await(50, TimeUnit.SECONDS), "still running: " + running.getCount());
        }
        assertEquals(Set.of("na ".repeat(20)), Set.copyOf(texts));
        assertEquals(count, texts.size());
        assertTrue(threads <= 12, "threads: " + threads);
        List<String> left = new ArrayList<>();
        for (int i = 0; i < 100; i++) { // gRPC keeps its own shared threads for a second
            left = since(before).stream().map(Thread::getName).toList();
            if (left.isEmpty()) {
                return;
            }
            TimeUnit.MILLISECONDS.sleep(50);
        }
        assertEquals(List.of(), left);
    }

    private static List<Thread> since(Set<Thread> before) {
        return Thread.getAllStackTraces().keySet().stream()
                .filter(thread -> !before.contains(thread) && thread.getName().matches("(parley|grpc|global).*"))
                .toList();
    }
}
