package dev.parley.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.parley.client.ReplyEvent.Finished;
import dev.parley.client.testing.ParleyServer;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;

/** The client against the real server. */
class ServerTest {
    static ParleyServer server;

    @BeforeAll
    static void start() { server = ParleyServer.start(); }

    @AfterAll
    static void stop() { server.close(); }

    @Test
    void aReplyIsReadInEachForm() throws Exception {
        try (ParleyClient client = ParleyClient.builder(server.address()).build()) {
            List<ReplyEvent> events = new ArrayList<>();
            try (ReplyStream stream = client.streamReply("/script {\"text\": \"one two three\", \"delay_s\": 0}")) {
                stream.forEachRemaining(events::add);
                assertEquals("one two three", stream.text());
            }
            assertTrue(events.get(events.size() - 1) instanceof Finished);
            var text = new CompletableFuture<String>();
            client.streamReply("/script {\"text\": \"one two three\", \"delay_s\": 0}").listen(event -> {
                if (event instanceof Finished end) {
                    text.complete(end.text());
                }
            });
            assertEquals("one two three", text.get(5, TimeUnit.SECONDS));
        }
    }
}
