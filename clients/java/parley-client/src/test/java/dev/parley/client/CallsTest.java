package dev.parley.client;

import static dev.parley.client.testing.Chunks.error;
import static dev.parley.client.testing.Chunks.finished;
import static dev.parley.client.testing.Chunks.millis;
import static dev.parley.client.testing.Chunks.text;
import static dev.parley.client.testing.ScriptedServer.abort;
import static dev.parley.client.testing.ScriptedServer.refusal;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.ByteString;
import dev.parley.client.errors.DeadlineExceededException;
import dev.parley.client.errors.OverloadedException;
import dev.parley.client.errors.ReplyNotFoundException;
import dev.parley.client.errors.UnavailableException;
import dev.parley.client.testing.ScriptedServer;
import dev.parley.client.testing.ScriptedServer.Abort;
import dev.parley.v1.CancelRequest;
import dev.parley.v1.Conversation;
import dev.parley.v1.CreateConversationRequest;
import dev.parley.v1.DeleteConversationRequest;
import dev.parley.v1.DeleteConversationResponse;
import dev.parley.v1.GetQuotaResponse;
import dev.parley.v1.Image;
import dev.parley.v1.ListConversationsRequest;
import dev.parley.v1.ListConversationsResponse;
import dev.parley.v1.ListMessagesResponse;
import dev.parley.v1.ListModelsResponse;
import dev.parley.v1.Message;
import dev.parley.v1.Model;
import dev.parley.v1.PollReplyRequest;
import dev.parley.v1.PollReplyResponse;
import dev.parley.v1.Quota;
import dev.parley.v1.Reply;
import dev.parley.v1.ReplyRequest;
import dev.parley.v1.UpdateConversationRequest;
import io.grpc.Metadata;
import io.grpc.Status;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Calls over a real socket: retries, typed errors, pages, identity. */
@Timeout(20)
class CallsTest {
    private static final Abort BARE = abort(Status.Code.UNAVAILABLE);
    private static final Reply REPLY = Reply.newBuilder().setId("reply-1").setState(Reply.State.STATE_COMPLETED).build();
    private static final Conversation CONVERSATION = Conversation.newBuilder().setId("c").setTitle("t").build();

    private final ScriptedServer server = new ScriptedServer();
    private final ParleyClient client = builder().build();

    private ParleyClientBuilder builder() {
        return ParleyClient.builder(server.address())
                .apiKey("key")
                .endUser("ada")
                .backoff(new Backoff(Duration.ofMillis(1), Duration.ofMillis(10), Duration.ofSeconds(5)));
    }

    @AfterEach
    void stop() {
        client.close();
        server.close();
    }

    private List<? extends com.google.protobuf.Message> requests() {
        return server.calls.stream().map(call -> call.request).toList();
    }

    @Test
    void everyCallCarriesTheIdentity() {
        server.answer("GetReply", REPLY);
        server.log.addAll(List.of(text(1, "a"), finished(2)));
        assertEquals(REPLY, client.getReply("reply-1"));
        client.streamReply("Hi").forEachRemaining(event -> {});
        assertEquals(2, server.calls.size());
        for (var call : server.calls) {
            assertEquals("Bearer key", call.metadata.get(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER)));
            assertEquals("ada", call.metadata.get(Metadata.Key.of("x-end-user", Metadata.ASCII_STRING_MARSHALLER)));
        }
    }

    @Test
    void aClientForAnotherEndUserSharesTheConnection() {
        server.answer("GetReply", REPLY);
        ParleyClient other = client.actingFor("ben");
        other.getReply("reply-1");
        client.getReply("reply-1");
        var user = Metadata.Key.of("x-end-user", Metadata.ASCII_STRING_MARSHALLER);
        var key = Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
        assertEquals(
                List.of(List.of("ben"), List.of("ada")),
                server.calls.stream().map(call -> toList(call.metadata.getAll(user))).toList());
        assertEquals("Bearer key", server.calls.get(0).metadata.get(key));
        client.close();
        assertThrows(UnavailableException.class, () -> other.getReply("reply-1"));
    }

    @Test
    void clientsKeepTheirSettingsWhenTheBuilderChanges() {
        server.answer("GetReply", REPLY);
        ParleyClientBuilder builder = builder().endUser("carl");
        try (ParleyClient carls = builder.build(); ParleyClient doras = builder.endUser("dora").build()) {
            carls.getReply("r");
            doras.getReply("r");
        }
        var user = Metadata.Key.of("x-end-user", Metadata.ASCII_STRING_MARSHALLER);
        assertEquals(List.of("carl", "dora"), server.calls.stream().map(call -> call.metadata.get(user)).toList());
    }

    private static List<String> toList(Iterable<String> values) {
        List<String> list = new ArrayList<>();
        values.forEach(list::add);
        return list;
    }

    @Test
    void wrongArgumentsAreRejected() {
        var builder = ParleyClient.builder("127.0.0.1:1");
        assertThrows(IllegalArgumentException.class, () -> builder.endUser("Zoë"));
        assertThrows(IllegalArgumentException.class, () -> builder.silence(Duration.ZERO));
        assertThrows(IllegalArgumentException.class, () -> client.cancel(CancelRequest.getDefaultInstance()));
        assertEquals(List.of(), server.calls);
    }

    @Test
    void aCutCallIsRetried() {
        server.answer("GetReply", BARE, refusal(Status.Code.UNAVAILABLE, "DRAINING"), REPLY);
        assertEquals(REPLY, client.getReply("reply-1"));
        assertEquals(3, server.calls.size());
    }

    @Test
    void createReplyIsRetriedWithTheSameRequestIdAndTheRemainingWait() {
        server.answer("CreateReply", BARE, BARE, REPLY);
        var wait = com.google.protobuf.Duration.newBuilder().setSeconds(5).build();
        assertEquals(REPLY, client.createReply(ReplyRequest.newBuilder().setText("Hi").setWait(wait).build()));
        List<ReplyRequest> sent = requests().stream().map(ReplyRequest.class::cast).toList();
        assertEquals(1, sent.stream().map(ReplyRequest::getRequestId).distinct().count());
        List<Long> waits = sent.stream().map(request -> Durations.of(request.getWait()).toNanos()).toList();
        assertTrue(5_000_000_000L >= waits.get(0) && waits.get(0) > waits.get(1) && waits.get(1) > waits.get(2)
                && waits.get(2) > 0, waits.toString());
    }

    @Test
    void createReplyWithoutWaitSendsNone() {
        server.answer("CreateReply", REPLY);
        client.createReply("Hi");
        client.createReply(ReplyRequest.newBuilder()
                .setText("Hi")
                .setWait(com.google.protobuf.Duration.getDefaultInstance())
                .build());
        assertFalse(((ReplyRequest) server.calls.get(0).request).hasWait());
        assertEquals(Duration.ZERO, Durations.of(((ReplyRequest) server.calls.get(1).request).getWait()));
        assertTrue(((ReplyRequest) server.calls.get(1).request).hasWait());
    }

    @Test
    void anUpdateOfAConversationIsNotRetried() {
        server.answer("UpdateConversation", BARE);
        assertThrows(UnavailableException.class, () -> client.conversations().update(CONVERSATION, "title"));
        assertEquals(1, server.calls.size());
        assertEquals(
                List.of("title"), ((UpdateConversationRequest) server.calls.get(0).request).getUpdateMask().getPathsList());
    }

    @Test
    void aCallStopsWhenTheBackoffExpires() {
        server.answer("GetReply", new Abort(Status.Code.UNAVAILABLE,
                error(Status.Code.UNAVAILABLE, "OVERLOADED").setRetryAfter(millis(100)).build()));
        var backoff = new Backoff(Duration.ofMillis(1), Duration.ofMillis(1), Duration.ofMillis(350));
        try (ParleyClient impatient = builder().backoff(backoff).build()) {
            assertThrows(OverloadedException.class, () -> impatient.getReply("reply-1"));
        }
        assertTrue(server.calls.size() >= 2 && server.calls.size() <= 4, "calls: " + server.calls.size());
    }

    @Test
    void aRefusalIsTypedAndNotRetried() {
        server.answer("GetReply", refusal(Status.Code.NOT_FOUND, "REPLY_NOT_FOUND"));
        var error = assertThrows(ReplyNotFoundException.class, () -> client.getReply("reply-1"));
        assertEquals("REPLY_NOT_FOUND: as scripted", error.getMessage());
        assertEquals(1, server.calls.size());
    }

    @Test
    void aCallHasATimeLimit() {
        var never = new CountDownLatch(1);
        server.answer("GetReply", request -> {
            try {
                never.await();
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
            return BARE;
        });
        try (ParleyClient hasty = builder().callTimeout(Duration.ofSeconds(1)).build()) {
            assertThrows(DeadlineExceededException.class, () -> hasty.getReply("reply-1"));
        }
        assertEquals(1, server.calls.size());
    }

    @Test
    void pagesAreReadOnDemand() {
        server.answer("ListConversations", request -> {
            String token = ((ListConversationsRequest) request).getPageToken();
            int number = token.isEmpty() ? 0 : Integer.parseInt(token);
            var page = ListConversationsResponse.newBuilder().setNextPageToken(number < 2 ? "" + (number + 1) : "");
            for (int i = 0; i < 2; i++) {
                page.addConversations(Conversation.newBuilder().setId("c" + (2 * number + i)));
            }
            return page.build();
        });
        var request = ListConversationsRequest.newBuilder().setQuery("x").setPageSize(2).build();
        assertEquals(0, server.calls.size());
        var listing = client.conversations().list(request).iterator();
        assertEquals("c0", listing.next().getId());
        assertEquals(1, server.calls.size());
        assertEquals(
                List.of("c0", "c1", "c2", "c3", "c4", "c5"),
                client.conversations().list(request).map(Conversation::getId).toList());
        assertEquals(
                List.of("", "", "1", "2"),
                requests().stream().map(sent -> ((ListConversationsRequest) sent).getPageToken()).toList());
    }

    @Test
    void theOtherConversationCalls() {
        Message message = Message.newBuilder().setId("m").build();
        server.answer("CreateConversation", CONVERSATION);
        server.answer("GetConversation", CONVERSATION);
        server.answer("DeleteConversation", DeleteConversationResponse.getDefaultInstance());
        server.answer("ListMessages", ListMessagesResponse.newBuilder().addMessages(message).build());
        server.answer("GetImage", Image.newBuilder().setData(ByteString.copyFromUtf8("x")).build());
        assertEquals(CONVERSATION, client.conversations().create(CONVERSATION));
        assertFalse(((CreateConversationRequest) server.calls.get(0).request).getRequestId().isEmpty());
        assertEquals(CONVERSATION, client.conversations().get("c"));
        assertEquals(List.of(message), client.conversations().messages("c").toList());
        assertEquals("x", client.conversations().image("i").getData().toStringUtf8());
        client.conversations().delete("c", "e");
        assertEquals(
                DeleteConversationRequest.newBuilder().setConversationId("c").setEtag("e").build(),
                server.calls.get(4).request);
    }

    @Test
    void pollsFollowTheCursorToTheEnd() {
        var first = PollReplyResponse.newBuilder().addChunks(text(2, "a")).setAfterSequence(2).build();
        var second = PollReplyResponse.newBuilder().setAfterSequence(2).build();
        var last = PollReplyResponse.newBuilder().addChunks(text(3, "b")).addChunks(finished(4)).setAfterSequence(4).build();
        server.answer("PollReply", first, second, last);
        var request = PollReplyRequest.newBuilder().setReplyId("reply-1").build();
        assertEquals(List.of(first, second, last), client.polls(request).toList());
        assertEquals(
                List.of(0, 2, 2), requests().stream().map(sent -> ((PollReplyRequest) sent).getAfterSequence()).toList());
        assertEquals(20, ((PollReplyRequest) server.calls.get(0).request).getWait().getSeconds());
    }

    @Test
    void modelsAndQuotas() {
        var model = Model.newBuilder().setAlias("fast").build();
        var quota = Quota.newBuilder().setName("q").build();
        server.answer("ListModels", ListModelsResponse.newBuilder().addModels(model).build());
        server.answer("GetQuota", GetQuotaResponse.newBuilder().addQuotas(quota).build());
        assertEquals(List.of(model), client.models());
        assertEquals(List.of(quota), client.quotas());
    }

    @Test
    void cancelRequiresATarget() {
        server.answer("Cancel", REPLY);
        client.cancel(CancelRequest.newBuilder().setConversationId("c").setReason("stop").build());
        client.cancel("r");
        assertEquals(
                Set.of(
                        CancelRequest.newBuilder().setConversationId("c").setReason("stop").build(),
                        CancelRequest.newBuilder().setReplyId("r").build()),
                requests().stream().collect(Collectors.toSet()));
    }

    @Test
    void closingTheClientEndsAPauseBetweenAttempts() throws Exception {
        var asked = new CountDownLatch(1);
        server.answer("GetReply", request -> {
            asked.countDown();
            return BARE;
        });
        ParleyClient patient =
                builder().backoff(new Backoff(Duration.ofHours(1), Duration.ofHours(1), Duration.ofDays(1))).build();
        var failure = CompletableFuture.supplyAsync(
                () -> assertThrows(UnavailableException.class, () -> patient.getReply("r")));
        asked.await();
        patient.close();
        failure.get(5, TimeUnit.SECONDS);
        assertEquals("the client is closed",
                assertThrows(UnavailableException.class, () -> patient.getReply("r")).getMessage());
    }

    @Test
    void anInterruptEndsACallAndTheFlagRemainsSet() throws Exception {
        var asked = new CountDownLatch(1);
        var never = new CountDownLatch(1);
        server.answer("GetReply", request -> {
            asked.countDown();
            try {
                never.await();
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
            return BARE;
        });
        var flag = new CompletableFuture<Boolean>();
        Thread caller = new Thread(() -> {
            assertThrows(CancellationException.class, () -> client.getReply("r"));
            flag.complete(Thread.currentThread().isInterrupted());
        });
        caller.start();
        asked.await();
        caller.interrupt();
        assertEquals(true, flag.get(5, TimeUnit.SECONDS));
        assertTrue(server.calls.get(0).cancelled.await(1, TimeUnit.SECONDS));
    }
}
