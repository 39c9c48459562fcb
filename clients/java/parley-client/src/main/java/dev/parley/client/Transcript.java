package dev.parley.client;

import dev.parley.client.ReplyEvent.Accepted;
import dev.parley.client.ReplyEvent.Finished;
import dev.parley.client.ReplyEvent.Reasoning;
import dev.parley.client.ReplyEvent.Snapshot;
import dev.parley.client.ReplyEvent.Text;
import dev.parley.client.ReplyEvent.ToolCall;
import dev.parley.client.ReplyEvent.UsageUpdate;
import dev.parley.client.errors.Failure;
import dev.parley.client.errors.ReplyFailedException;
import dev.parley.v1.Failed;
import dev.parley.v1.FinishReason;
import dev.parley.v1.Part;
import dev.parley.v1.Reply;
import dev.parley.v1.TokenChunk;
import dev.parley.v1.TokenChunk.EventCase;
import dev.parley.v1.ToolCallDelta;
import java.util.List;
import java.util.Optional;
import java.util.SortedMap;
import java.util.TreeMap;

/**
 * Converts the chunks of one reply to events. Content at or below the cursor is dropped, so that no chunk counts twice.
 * A snapshot replaces all content. The first terminal chunk ends the reply; later chunks are dropped. One thread
 * writes, all threads may read.
 */
final class Transcript {
    private final StringBuilder text = new StringBuilder();
    private final SortedMap<Integer, ToolCall> toolCalls = new TreeMap<>();
    private String replyId;
    private int sequence;
    private Accepted accepted;
    private Finished finished;
    private ReplyFailedException failure;

    Transcript(String replyId, int afterSequence) {
        this.replyId = replyId;
        this.sequence = afterSequence;
    }

    synchronized String replyId() { return replyId; }

    synchronized int sequence() { return sequence; }

    synchronized String text() { return text.toString(); }

    synchronized List<ToolCall> toolCalls() { return List.copyOf(toolCalls.values()); }

    synchronized Accepted accepted() { return accepted; }

    synchronized Finished finished() { return finished; }

    synchronized ReplyFailedException failure() { return failure; }

    synchronized boolean ended() { return finished != null || failure != null; }

    /**
     * Returns the event of a chunk, or null if it has nothing new. The error of a failed reply is in {@link #failure}.
     */
    synchronized ReplyEvent apply(TokenChunk chunk) {
        var kind = chunk.getEventCase();
        if (ended() || kind == EventCase.HEARTBEAT || kind == EventCase.GO_AWAY) {
            return null;
        }
        if (kind == EventCase.ACCEPTED) {
            return accept(chunk.getAccepted(), chunk.getReplyId());
        }
        // A snapshot at the cursor may contain text that was lost; the terminal chunk may have the cursor's sequence.
        boolean last = kind == EventCase.FINISHED || kind == EventCase.FAILED;
        boolean again = last || (kind == EventCase.SNAPSHOT && chunk.getSequence() == sequence);
        if (chunk.getSequence() <= sequence && !again) {
            return null;
        }
        sequence = Math.max(sequence, chunk.getSequence());
        return switch (kind) {
            case TEXT -> text(chunk.getText());
            case REASONING -> new Reasoning(chunk.getReasoning().getText());
            case TOOL_CALL -> toolCall(chunk.getToolCall());
            case USAGE -> new UsageUpdate(chunk.getUsage());
            case SNAPSHOT -> replace(chunk.getSnapshot());
            case FINISHED -> finish(chunk.getFinished());
            case FAILED -> fail(chunk.getFailed());
            default -> null; // a kind that this client does not have
        };
    }

    private ReplyEvent accept(dev.parley.v1.Accepted chunk, String id) {
        if (accepted != null) {
            return null;
        }
        replyId = id.isEmpty() ? replyId : id;
        accepted = new Accepted(
                replyId,
                chunk.getConversationId(),
                chunk.getMessageId(),
                List.copyOf(chunk.getInputMessageIdsList()),
                chunk.getModel(),
                chunk.getReplayed(),
                List.copyOf(chunk.getIgnoredSettingsList()),
                Optional.of(chunk.getQuota()).filter(quota -> chunk.hasQuota()));
        return accepted;
    }

    private ReplyEvent text(String piece) {
        text.append(piece);
        return new Text(piece);
    }

    private ReplyEvent toolCall(ToolCallDelta delta) {
        var piece = new ToolCall(delta.getIndex(), delta.getId(), delta.getName(), delta.getArguments());
        toolCalls.merge(piece.index(), piece, (before, more) -> new ToolCall(
                before.index(),
                before.id().isEmpty() ? more.id() : before.id(),
                before.name().isEmpty() ? more.name() : before.name(),
                before.arguments() + more.arguments()));
        return piece;
    }

    private ReplyEvent replace(Reply reply) {
        text.setLength(0);
        toolCalls.clear();
        for (Part part : reply.getMessage().getPartsList()) {
            text.append(part.getText());
            if (part.hasToolCall()) {
                var call = part.getToolCall();
                int index = toolCalls.size();
                toolCalls.put(index, new ToolCall(index, call.getId(), call.getName(), call.getArguments()));
            }
        }
        return new Snapshot(text.toString(), reply);
    }

    private ReplyEvent finish(dev.parley.v1.Finished chunk) {
        boolean known = chunk.getReason() != FinishReason.UNRECOGNIZED;
        String reason = known ? chunk.getReason().name().substring("FINISH_REASON_".length()) : "OTHER";
        finished = new Finished(
                reason,
                text.toString(),
                chunk.getModel(),
                chunk.getProvider(),
                chunk.getCancelReason(),
                chunk.getUsage());
        return finished;
    }

    private ReplyEvent fail(Failed chunk) {
        String messageId = accepted == null ? "" : accepted.messageId();
        failure = new ReplyFailedException(Failure.of(chunk.getError()), text.toString(), replyId, messageId, chunk);
        return null;
    }
}
