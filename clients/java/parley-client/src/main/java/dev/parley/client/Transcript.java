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
import dev.parley.v1.FinishReason;
import dev.parley.v1.Part;
import dev.parley.v1.TokenChunk;
import dev.parley.v1.ToolCallDelta;
import java.util.List;
import java.util.SortedMap;
import java.util.TreeMap;

/**
 * What is known of one reply: folds chunks into events, by sequence, so that nothing repeats and nothing is lost. Content
 * at or below the cursor is dropped; a snapshot replaces what was there; the first terminal chunk ends it, and nothing
 * after that counts. No I/O, no clock; one thread writes, any may read.
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

    /** The event that this chunk means, or null where it brings nothing new. A failure is kept in {@link #failure}. */
    synchronized ReplyEvent apply(TokenChunk chunk) {
        if (ended()) {
            return null;
        }
        return switch (chunk.getEventCase()) {
            case ACCEPTED -> accept(chunk);
            case HEARTBEAT, GO_AWAY -> null;
            case FINISHED -> finish(chunk);
            case FAILED -> fail(chunk);
            case SNAPSHOT -> replace(chunk);
            default -> content(chunk);
        };
    }

    private ReplyEvent content(TokenChunk chunk) {
        if (chunk.getSequence() <= sequence) {
            return null;
        }
        sequence = chunk.getSequence();
        return switch (chunk.getEventCase()) {
            case TEXT -> {
                text.append(chunk.getText());
                yield new Text(chunk.getText());
            }
            case REASONING -> new Reasoning(chunk.getReasoning().getText());
            case TOOL_CALL -> toolCall(chunk.getToolCall());
            case USAGE -> new UsageUpdate(chunk.getUsage());
            default -> null;
        };
    }

    private ReplyEvent accept(TokenChunk chunk) {
        if (accepted != null) {
            return null;
        }
        if (!chunk.getReplyId().isEmpty()) {
            replyId = chunk.getReplyId();
        }
        var said = chunk.getAccepted();
        accepted = new Accepted(replyId, said.getConversationId(), said.getMessageId(),
                List.copyOf(said.getInputMessageIdsList()), said.getModel(), said.getReplayed());
        return accepted;
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

    private ReplyEvent replace(TokenChunk chunk) {
        if (chunk.getSequence() < sequence) {
            return null;
        }
        sequence = chunk.getSequence();
        text.setLength(0);
        toolCalls.clear();
        for (Part part : chunk.getSnapshot().getMessage().getPartsList()) {
            text.append(part.getText());
            if (part.hasToolCall()) {
                var call = part.getToolCall();
                int index = toolCalls.size();
                toolCalls.put(index, new ToolCall(index, call.getId(), call.getName(), call.getArguments()));
            }
        }
        return new Snapshot(text.toString(), chunk.getSnapshot());
    }

    private ReplyEvent finish(TokenChunk chunk) {
        sequence = Math.max(sequence, chunk.getSequence());
        var said = chunk.getFinished();
        String reason = said.getReason() == FinishReason.UNRECOGNIZED
                ? "OTHER"
                : said.getReason().name().substring("FINISH_REASON_".length());
        finished = new Finished(reason, text.toString(), said.getModel(), said.getCancelReason(), said.getUsage());
        return finished;
    }

    private ReplyEvent fail(TokenChunk chunk) {
        sequence = Math.max(sequence, chunk.getSequence());
        var failed = chunk.getFailed();
        failure = new ReplyFailedException(Failure.of(failed.getError()), text.toString(), replyId,
                accepted == null ? "" : accepted.messageId(), failed.getUsage());
        return null;
    }
}
