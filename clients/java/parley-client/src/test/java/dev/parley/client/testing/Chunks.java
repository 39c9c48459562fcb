package dev.parley.client.testing;

import com.google.protobuf.Duration;
import dev.parley.v1.Accepted;
import dev.parley.v1.ErrorReason;
import dev.parley.v1.Failed;
import dev.parley.v1.FinishReason;
import dev.parley.v1.Finished;
import dev.parley.v1.Message;
import dev.parley.v1.Part;
import dev.parley.v1.Reply;
import dev.parley.v1.ReplyError;
import dev.parley.v1.TokenChunk;
import dev.parley.v1.Usage;
import io.grpc.Status;
import java.util.ArrayList;
import java.util.List;

/** Chunks of a scripted reply. */
public final class Chunks {
    public static final String REPLY_ID = "reply-1";

    private Chunks() {}

    /** The first chunk of every stream. */
    public static TokenChunk accepted(int sequence) {
        return TokenChunk.newBuilder()
                .setReplyId(REPLY_ID)
                .setSequence(sequence)
                .setAccepted(Accepted.newBuilder()
                        .setConversationId("conversation-1")
                        .setMessageId("message-2")
                        .addInputMessageIds("message-1")
                        .setModel("scripted")
                        .addIgnoredSettings("seed"))
                .build();
    }

    public static TokenChunk text(int sequence, String piece) {
        return TokenChunk.newBuilder().setSequence(sequence).setText(piece).build();
    }

    /** Text chunks, numbered from 1. */
    public static List<TokenChunk> texts(String... pieces) {
        List<TokenChunk> chunks = new ArrayList<>();
        for (String piece : pieces) {
            chunks.add(text(chunks.size() + 1, piece));
        }
        return chunks;
    }

    public static TokenChunk finished(int sequence) {
        return finished(sequence, FinishReason.FINISH_REASON_STOP, "");
    }

    public static TokenChunk finished(int sequence, FinishReason reason, String cancelReason) {
        return TokenChunk.newBuilder()
                .setSequence(sequence)
                .setFinished(Finished.newBuilder()
                        .setReason(reason)
                        .setModel("spare")
                        .setProvider("typewriter")
                        .setCancelReason(cancelReason)
                        .setUsage(usage()))
                .build();
    }

    public static Usage usage() { return Usage.newBuilder().setPromptTokens(3).setCompletionTokens(5).build(); }

    public static TokenChunk failed(int sequence, ReplyError error) {
        return TokenChunk.newBuilder()
                .setSequence(sequence)
                .setFailed(Failed.newBuilder()
                        .setError(error)
                        .setUsage(Usage.newBuilder().setPromptTokens(3))
                        .setModel("spare")
                        .setProvider("typewriter"))
                .build();
    }

    public static TokenChunk snapshot(int sequence, String whole) {
        Message message = Message.newBuilder().addParts(Part.newBuilder().setText(whole)).build();
        return TokenChunk.newBuilder()
                .setSequence(sequence)
                .setSnapshot(Reply.newBuilder().setId(REPLY_ID).setMessage(message))
                .build();
    }

    /** The error of a trailer or of a {@code failed} chunk. */
    public static ReplyError.Builder error(Status.Code code, String reason) {
        return ReplyError.newBuilder()
                .setCode(code.value())
                .setReason(ErrorReason.valueOf("ERROR_REASON_" + reason))
                .setMessage("as scripted");
    }

    public static Duration millis(int millis) { return Duration.newBuilder().setSeconds(millis / 1000).setNanos(millis % 1000 * 1_000_000).build(); }
}
