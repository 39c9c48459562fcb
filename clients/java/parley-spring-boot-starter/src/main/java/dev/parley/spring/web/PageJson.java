package dev.parley.spring.web;

import com.google.protobuf.Timestamp;
import dev.parley.client.errors.Failure;
import dev.parley.v1.Conversation;
import dev.parley.v1.FinishReason;
import dev.parley.v1.ListMessagesResponse;
import dev.parley.v1.Message;
import dev.parley.v1.Part;
import dev.parley.v1.Reply;
import dev.parley.v1.Role;
import dev.parley.v1.Usage;
import java.time.Instant;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;

/** The JSON objects of the page routes. Maps, so that the settings of the application's JSON library change no name. */
final class PageJson {
    private static final double NANO = 1e9;

    private PageJson() {}

    /** Returns a map of alternating names and values, in their order; values may be null. */
    static Map<String, Object> object(Object... namesAndValues) {
        var object = new LinkedHashMap<String, Object>();
        for (int i = 0; i < namesAndValues.length; i += 2) {
            object.put((String) namesAndValues[i], namesAndValues[i + 1]);
        }
        return object;
    }

    static String orNull(String text) { return text.isEmpty() ? null : text; }

    static Double cost(Usage usage) { return usage.hasCostNanoUsd() ? usage.getCostNanoUsd() / NANO : null; }

    static String time(Timestamp time) { return Instant.ofEpochSecond(time.getSeconds(), time.getNanos()).toString(); }

    static Map<String, Object> conversation(Conversation conversation) {
        return object(
                "id", conversation.getId(),
                "title", conversation.getTitle(),
                "create_time", time(conversation.getCreateTime()),
                "update_time", time(conversation.getUpdateTime()),
                "active_reply_id", orNull(conversation.getActiveReplyId()));
    }

    /** Whether the page has a reply, which has ended then. */
    static boolean has(ListMessagesResponse page, String replyId) {
        return page.getRepliesList().stream().anyMatch(reply -> reply.getId().equals(replyId));
    }

    /**
     * Returns the messages of a page, oldest first, with the replies that ended without a message. Those to the message
     * {@code answered} are left out, since a running reply takes their place.
     */
    static List<Object> messages(ListMessagesResponse page, String answered) {
        Map<String, Reply> written = new HashMap<>();
        page.getRepliesList().forEach(reply -> written.put(reply.getMessageId(), reply));
        Map<String, Reply> empty = new HashMap<>();
        var ids = page.getMessagesList().stream().map(Message::getId).collect(Collectors.toSet());
        page.getRepliesList().stream()
                .filter(reply -> !ids.contains(reply.getMessageId()) && !state(reply).equals("running"))
                .forEach(reply -> empty.put(reply.getParentMessageId(), reply));
        empty.remove(answered);
        List<Object> shown = new ArrayList<>();
        for (int i = page.getMessagesCount() - 1; i >= 0; i--) {
            Message message = page.getMessages(i);
            if (message.getRole() != Role.ROLE_TOOL) {
                shown.add(message(message, written.get(message.getId())));
            }
            if (empty.containsKey(message.getId())) {
                shown.add(empty(empty.get(message.getId())));
            }
        }
        return shown;
    }

    private static Map<String, Object> message(Message message, Reply reply) {
        String text = message.getPartsList().stream().map(Part::getText).collect(Collectors.joining());
        var images = message.getPartsList().stream()
                .filter(part -> !part.getImage().getImageId().isEmpty())
                .map(part -> object("id", part.getImage().getImageId(), "mime_type", part.getImage().getMimeType()))
                .toList();
        return object(
                "id", message.getId(),
                "role", message.getRole() == Role.ROLE_USER ? "user" : "assistant",
                "text", text,
                "images", images,
                "partial", message.getPartial(),
                "create_time", time(message.getCreateTime()),
                "reply", reply == null ? null : reply(reply));
    }

    /** A reply that ended without a message, as an empty one, so that the page can offer to try again. */
    private static Map<String, Object> empty(Reply reply) {
        return object(
                "id", reply.getMessageId(),
                "role", "assistant",
                "text", "",
                "images", List.of(),
                "partial", true,
                "create_time", time(reply.getCreateTime()),
                "reply", reply(reply));
    }

    private static Map<String, Object> reply(Reply reply) {
        return object(
                "id", reply.getId(),
                "state", state(reply),
                "model", reply.getModel(),
                "finish_reason", reason(reply.getFinishReason()),
                "input_tokens", reply.getUsage().getPromptTokens(),
                "output_tokens", reply.getUsage().getCompletionTokens(),
                "cost_usd", cost(reply.getUsage()),
                "error", reply.hasError() ? Refusal.of(Failure.of(reply.getError()).toException()).body() : null);
    }

    private static String reason(FinishReason reason) {
        return switch (reason) {
            case FINISH_REASON_UNSPECIFIED -> null;
            case UNRECOGNIZED -> "OTHER";
            default -> reason.name().substring("FINISH_REASON_".length());
        };
    }

    private static String state(Reply reply) {
        return switch (reply.getState()) {
            case STATE_COMPLETED -> "completed";
            case STATE_CANCELLED -> "cancelled";
            case STATE_FAILED -> "failed";
            default -> "running";
        };
    }
}
