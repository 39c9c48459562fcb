package com.example.chat;

import com.google.protobuf.Timestamp;
import dev.parley.client.errors.Failure;
import dev.parley.spring.web.Refusal;
import dev.parley.v1.Part;
import dev.parley.v1.Reply;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.MatchResult;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/**
 * A reply as a task.
 *
 * @param chunks the text so far, in pieces that do not change once they are there; empty for a completed task
 */
record Task(String status, List<String> chunks, FinalMessage finalMessage, String error) {
    record FinalMessage(String id, String role, String content, Instant createdAt) {}

    private static final String STOPPED = "The answer was stopped before its first word.";
    /** Ends after white space. A long word is cut, since some languages write without spaces. */
    private static final Pattern PIECE = Pattern.compile("\\S{32}|\\S*\\s");

    static Task of(Reply reply) {
        String text = reply.getMessage().getPartsList().stream().map(Part::getText).collect(Collectors.joining());
        return switch (reply.getState()) {
            case STATE_COMPLETED -> completed(reply, text);
            case STATE_CANCELLED -> text.isEmpty() ? failed(text, STOPPED) : completed(reply, text);
            case STATE_FAILED -> failed(text, Refusal.of(Failure.of(reply.getError()).toException()).message());
            default -> new Task("processing", pieces(text), null, null);
        };
    }

    static boolean isRunning(Reply reply) {
        return reply.getState() == Reply.State.STATE_PENDING || reply.getState() == Reply.State.STATE_STREAMING;
    }

    static Instant time(Timestamp time) { return Instant.ofEpochSecond(time.getSeconds(), time.getNanos()); }

    private static Task completed(Reply reply, String text) {
        var message = new FinalMessage(reply.getMessageId(), "assistant", text, time(reply.getEndTime()));
        return new Task("completed", List.of(), message, null);
    }

    private static Task failed(String text, String sentence) {
        List<String> chunks = new ArrayList<>(pieces(text));
        String rest = text.substring(String.join("", chunks).length());
        chunks.addAll(rest.isEmpty() ? List.of() : List.of(rest));
        return new Task("failed", chunks, null, sentence);
    }

    /**
     * The pieces follow from the text alone, so that every poll of any process cuts it in the same places. What comes after
     * the last one is held back while more text can change it.
     */
    private static List<String> pieces(String text) {
        return PIECE.matcher(text).results().map(MatchResult::group).toList();
    }
}
