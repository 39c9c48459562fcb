package dev.parley.client;

import static dev.parley.client.testing.Chunks.accepted;
import static dev.parley.client.testing.Chunks.error;
import static dev.parley.client.testing.Chunks.failed;
import static dev.parley.client.testing.Chunks.finished;
import static dev.parley.client.testing.Chunks.snapshot;
import static dev.parley.client.testing.Chunks.text;
import static dev.parley.client.testing.Chunks.texts;
import static dev.parley.client.testing.Chunks.usage;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.ByteString;
import com.google.protobuf.InvalidProtocolBufferException;
import dev.parley.client.ReplyEvent.Accepted;
import dev.parley.client.ReplyEvent.Finished;
import dev.parley.client.ReplyEvent.Reasoning;
import dev.parley.client.ReplyEvent.Snapshot;
import dev.parley.client.ReplyEvent.Text;
import dev.parley.client.ReplyEvent.ToolCall;
import dev.parley.client.ReplyEvent.UsageUpdate;
import dev.parley.v1.FinishReason;
import dev.parley.v1.GoAway;
import dev.parley.v1.Heartbeat;
import dev.parley.v1.Message;
import dev.parley.v1.Part;
import dev.parley.v1.Reply;
import dev.parley.v1.TokenChunk;
import dev.parley.v1.ToolCallDelta;
import dev.parley.v1.Usage;
import io.grpc.Status;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.Random;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;

/** The transcript: its text is exact after any cuts, repetitions, merges and snapshots. */
class TranscriptTest {
    private final Transcript transcript = new Transcript("", 0);

    @Test
    void theTextIsExactForEveryDelivery() {
        for (int seed = 0; seed < 2000; seed++) {
            Random random = new Random(seed);
            String[] pieces = random.ints(1 + random.nextInt(12), 'a', 'z' + 1)
                    .mapToObj(letter -> Character.toString(letter).repeat(1 + random.nextInt(4)))
                    .toArray(String[]::new);
            String whole = String.join("", pieces);
            Transcript read = new Transcript("", 0);
            StringBuilder shown = new StringBuilder();
            List<Finished> ends = new ArrayList<>();
            for (TokenChunk chunk : delivery(pieces, random)) {
                ReplyEvent event = read.apply(chunk);
                if (event instanceof Text piece) {
                    shown.append(piece.text());
                } else if (event instanceof Snapshot all) {
                    shown.setLength(0);
                    shown.append(all.text());
                } else if (event instanceof Finished end) {
                    ends.add(end);
                }
            }
            assertEquals(whole, shown.toString(), "seed " + seed);
            assertEquals(whole, read.text(), "seed " + seed);
            assertEquals(List.of(whole), ends.stream().map(Finished::text).toList(), "seed " + seed);
        }
    }

    /** A possible delivery of a log over many calls. */
    private static List<TokenChunk> delivery(String[] pieces, Random random) {
        List<TokenChunk> log = texts(pieces);
        List<TokenChunk> sent = new ArrayList<>();
        int cursor = 0;
        while (cursor < log.size()) {
            sent.add(accepted(cursor));
            int upTo = cursor + 1 + random.nextInt(log.size() - cursor);
            if (cursor > 0 && random.nextInt(3) == 0) {
                sent.add(snapshot(cursor, String.join("", List.of(pieces).subList(0, cursor))));
            }
            while (cursor < upTo) { // a slow reader gets neighbours joined
                int end = cursor + 1 + random.nextInt(upTo - cursor);
                sent.add(text(end, String.join("", List.of(pieces).subList(cursor, end))));
                cursor = end;
            }
            if (random.nextBoolean()) {
                sent.add(TokenChunk.newBuilder().setSequence(cursor).setHeartbeat(Heartbeat.getDefaultInstance()).build());
            }
            for (int again = random.nextInt(3); again > 0; again--) {
                sent.add(log.get(random.nextInt(cursor)));
            }
        }
        sent.add(finished(log.size() + 1));
        sent.add(log.get(random.nextInt(log.size())));
        sent.add(finished(log.size() + 1));
        return sent;
    }

    @Test
    void theEventsOfACompleteLog() {
        var usage = Usage.newBuilder().setPromptTokens(3).build();
        List<TokenChunk> chunks = List.of(
                accepted(0),
                TokenChunk.newBuilder().setSequence(1).setReasoning(dev.parley.v1.Reasoning.newBuilder().setText("hm")).build(),
                text(2, "He"),
                call(3, ToolCallDelta.newBuilder().setId("c1").setName("f").setArguments("{")),
                call(4, ToolCallDelta.newBuilder().setArguments("}")),
                TokenChunk.newBuilder().setSequence(5).setUsage(usage).build(),
                finished(6));
        assertEquals(
                List.of(
                        new Accepted(
                                "reply-1",
                                "conversation-1",
                                "message-2",
                                List.of("message-1"),
                                "scripted",
                                false,
                                List.of("seed"),
                                Optional.empty()),
                        new Reasoning("hm"),
                        new Text("He"),
                        new ToolCall(0, "c1", "f", "{"),
                        new ToolCall(0, "", "", "}"),
                        new UsageUpdate(usage),
                        new Finished("STOP", "He", "spare", "typewriter", "", usage())),
                chunks.stream().map(transcript::apply).toList());
        assertEquals(List.of(new ToolCall(0, "c1", "f", "{}")), transcript.toolCalls());
    }

    private static TokenChunk call(int sequence, ToolCallDelta.Builder delta) {
        return TokenChunk.newBuilder().setSequence(sequence).setToolCall(delta).build();
    }

    @Test
    void heartbeatsAndGoAwayDoNotMoveTheCursor() {
        transcript.apply(accepted(7));
        transcript.apply(TokenChunk.newBuilder().setSequence(9).setGoAway(GoAway.getDefaultInstance()).build());
        assertEquals(0, transcript.sequence());
        assertEquals(new Text("a"), transcript.apply(text(1, "a")));
    }

    @Test
    void anUnknownEventIsSkippedAndMovesTheCursor() throws InvalidProtocolBufferException {
        byte[] sequence5AndField100 = {0x10, 5, (byte) 0xa2, 6, 3, 'a', 'b', 'c'};
        assertNull(transcript.apply(TokenChunk.parseFrom(ByteString.copyFrom(sequence5AndField100))));
        assertEquals(5, transcript.sequence());
    }

    @Test
    void aSnapshotReplacesTextAndToolCalls() {
        transcript.apply(text(3, "lost"));
        Reply reply = Reply.newBuilder()
                .setMessage(Message.newBuilder()
                        .addParts(Part.newBuilder().setReasoning(dev.parley.v1.Reasoning.newBuilder().setText("hidden")))
                        .addParts(Part.newBuilder().setText("kept"))
                        .addParts(Part.newBuilder().setToolCall(
                                dev.parley.v1.ToolCall.newBuilder().setId("c").setName("f").setArguments("{}"))))
                .build();
        var event = transcript.apply(TokenChunk.newBuilder().setSequence(65539).setSnapshot(reply).build());
        assertEquals(new Snapshot("kept", reply), event);
        assertEquals(List.of(new ToolCall(0, "c", "f", "{}")), transcript.toolCalls());
        assertEquals(65539, transcript.sequence());
    }

    @Test
    void anOldSnapshotDoesNotReplaceNewerText() {
        Stream.of(snapshot(2, "ab"), text(3, "c"), snapshot(2, "ab")).forEach(transcript::apply);
        assertEquals("abc", transcript.text());
    }

    @Test
    void aSnapshotAtTheCursorReplacesTheText() {
        Stream.of(text(1, "a"), text(2, "lost"), snapshot(2, "kept")).forEach(transcript::apply);
        assertEquals("kept", transcript.text());
        assertEquals(2, transcript.sequence());
    }

    @Test
    void aFailureHasThePartialText() {
        var error = error(Status.Code.ABORTED, "PROVIDER_TIMEOUT").setRetryable(true).build();
        Stream.of(accepted(0), text(1, "half"), failed(2, error), failed(2, error), finished(3)).forEach(transcript::apply);
        var failure = transcript.failure();
        assertNull(transcript.finished());
        assertEquals("PROVIDER_TIMEOUT", failure.reason());
        assertEquals("half", failure.text());
        assertTrue(failure.retryable());
        assertEquals("reply-1", failure.replyId());
        assertEquals("message-2", failure.messageId());
        assertEquals("spare", failure.model());
        assertEquals("typewriter", failure.provider());
    }

    @Test
    void aTerminalChunkAtTheCursorIsNotDropped() {
        var resumed = new Transcript("reply-1", 6);
        assertEquals("STOP", ((Finished) resumed.apply(finished(6))).reason());
    }

    @Test
    void anUnknownFinishReasonIsOther() {
        var chunk = finished(1, FinishReason.FINISH_REASON_STOP, "").toBuilder();
        chunk.getFinishedBuilder().setReasonValue(77);
        assertEquals("OTHER", ((Finished) transcript.apply(chunk.build())).reason());
    }
}
