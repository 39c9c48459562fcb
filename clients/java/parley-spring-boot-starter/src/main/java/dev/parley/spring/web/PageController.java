package dev.parley.spring.web;

import dev.parley.client.ParleyClient;
import dev.parley.client.errors.NotFoundException;
import dev.parley.v1.CancelRequest;
import dev.parley.v1.Conversation;
import dev.parley.v1.Image;
import dev.parley.v1.ListConversationsRequest;
import dev.parley.v1.ListMessagesRequest;
import dev.parley.v1.Reply;
import dev.parley.v1.ReplyRequest;
import jakarta.servlet.http.HttpServletRequest;
import java.util.Map;
import org.springframework.http.HttpHeaders;
import org.springframework.http.MediaType;
import org.springframework.http.ResponseEntity;
import org.springframework.web.bind.annotation.DeleteMapping;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PathVariable;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestBody;
import org.springframework.web.bind.annotation.RequestHeader;
import org.springframework.web.bind.annotation.RequestMapping;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.servlet.mvc.method.annotation.SseEmitter;

/** The page routes: what the chat page needs beside the application's own route for a question. */
@RestController
@RequestMapping("/api/page")
final class PageController extends RefusalAdvice {
    private static final int PAGE_SIZE = 50;
    private static final PageEvents EVENTS = new PageEvents();
    private static final Refusal NOTHING_RUNS = Refusal.of(409, "CONFLICT", "No answer is being written.");

    private final ParleyClient parley;
    private final ReplySse sse;
    private final PageSettings settings;

    PageController(ParleyClient parley, ReplySse sse, PageSettings settings) {
        this.parley = parley;
        this.sse = sse;
        this.settings = settings;
    }

    @GetMapping("/config")
    Map<String, Object> config() {
        return PageJson.object(
                "wire", settings.wire(), "login", settings.login(), "images", settings.images(), "title", settings.title());
    }

    @GetMapping("/conversations")
    Map<String, Object> conversations(
            @RequestParam(name = "page_token", defaultValue = "") String token, HttpServletRequest request) {
        var query = ListConversationsRequest.newBuilder().setPageSize(PAGE_SIZE).setPageToken(token);
        var page = client(request).conversations().pages(query.build()).findFirst().orElseThrow();
        var listed = page.getConversationsList().stream().map(PageJson::conversation).toList();
        return PageJson.object("conversations", listed, "next_page_token", PageJson.orNull(page.getNextPageToken()));
    }

    @GetMapping("/conversations/{id}")
    Map<String, Object> conversation(@PathVariable("id") String id, HttpServletRequest request) {
        return PageJson.conversation(client(request).conversations().get(id));
    }

    @DeleteMapping("/conversations/{id}")
    ResponseEntity<Void> delete(@PathVariable("id") String id, HttpServletRequest request) {
        client(request).conversations().delete(id);
        return ResponseEntity.noContent().build();
    }

    /**
     * A page token names the last message of its branch, so that further pages continue the same branch when another answer
     * has begun. While a reply runs, the head is the message that it answers.
     */
    @GetMapping("/conversations/{id}/messages")
    Map<String, Object> messages(
            @PathVariable("id") String id,
            @RequestParam(name = "page_token", defaultValue = "") String token,
            HttpServletRequest request) {
        var conversations = client(request).conversations();
        Conversation shown = conversations.get(id);
        int dot = token.lastIndexOf('.');
        String leaf = token.isEmpty() ? shown.getHeadMessageId() : token.substring(0, Math.max(0, dot));
        var query = ListMessagesRequest.newBuilder()
                .setConversationId(id)
                .setPageSize(PAGE_SIZE)
                .setLeafMessageId(leaf)
                .setPageToken(token.substring(dot + 1));
        var page = conversations.messagePages(query.build()).findFirst().orElseThrow();
        String active = PageJson.has(page, shown.getActiveReplyId()) ? "" : shown.getActiveReplyId();
        return PageJson.object(
                "messages", PageJson.messages(page, active.isEmpty() ? "" : leaf),
                "active_reply_id", PageJson.orNull(active),
                "next_page_token", page.getNextPageToken().isEmpty() ? null : leaf + "." + page.getNextPageToken());
    }

    /** The policies keep a browser from running an image of another format as a page of this site. */
    @GetMapping("/images/{id}")
    ResponseEntity<byte[]> image(@PathVariable("id") String id, HttpServletRequest request) {
        Image image = client(request).conversations().image(id);
        return ResponseEntity.ok()
                .contentType(MediaType.parseMediaType(image.getMimeType()))
                .header(HttpHeaders.CACHE_CONTROL, "private, max-age=31536000, immutable")
                .header("X-Content-Type-Options", "nosniff")
                .header("Content-Security-Policy", "sandbox")
                .body(image.getData().toByteArray());
    }

    @GetMapping("/conversations/{id}/stream")
    ResponseEntity<SseEmitter> stream(
            @PathVariable("id") String id,
            @RequestParam(name = "reply_id", defaultValue = "") String replyId,
            @RequestParam(name = "after", defaultValue = "0") int after,
            HttpServletRequest request) {
        ParleyClient client = client(request);
        String active = client.conversations().get(id).getActiveReplyId();
        if (active.isEmpty()) {
            return ResponseEntity.noContent().build();
        }
        return sse.send(client.resume(active, replyId.equals(active) ? after : 0), EVENTS);
    }

    @PostMapping("/conversations/{id}/stop")
    ResponseEntity<Map<String, String>> stop(
            @PathVariable("id") String id,
            @RequestBody(required = false) Map<String, Object> body,
            HttpServletRequest request) {
        ParleyClient client = client(request);
        String requestId = body == null && request.getContentLengthLong() <= 0 ? null : text(body, "request_id");
        var cancel = CancelRequest.newBuilder().setReason("user_cancelled");
        try {
            Reply reply = client.cancel(
                    (requestId == null ? cancel.setConversationId(id) : cancel.setRequestId(requestId)).build());
            boolean cancelled = reply.getState() == Reply.State.STATE_CANCELLED;
            return ResponseEntity.ok(Map.of("status", cancelled ? "cancelled" : "already_finished"));
        } catch (NotFoundException none) {
            if (requestId != null) {
                return ResponseEntity.accepted().body(Map.of("status", "cancelled"));
            }
            client.conversations().get(id); // a conversation that is missing is not found
            throw NOTHING_RUNS.exception();
        }
    }

    @PostMapping("/conversations/{id}/retry")
    ResponseEntity<SseEmitter> retry(
            @PathVariable("id") String id,
            @RequestBody Map<String, Object> body,
            @RequestHeader(name = "Idempotency-Key", defaultValue = "") String key,
            HttpServletRequest request) {
        String replaced = text(body, "replace_message_id");
        if (replaced == null || replaced.isEmpty()) {
            throw Refusal.of(400).exception();
        }
        ReplyRequest again = settings.replySettings().apply(request).toBuilder()
                .setRequestId(key)
                .setConversationId(id)
                .setReplaceMessageId(replaced)
                .build();
        return sse.send(client(request).streamReply(again), EVENTS);
    }

    /** Returns a field that is a text, or null without it. JSON may also be null in place of an object. */
    private static String text(Map<String, Object> body, String name) {
        Object value = body == null ? null : body.get(name);
        if (body == null || value != null && !(value instanceof String)) {
            throw Refusal.of(400).exception();
        }
        return (String) value;
    }

    private ParleyClient client(HttpServletRequest request) {
        String user = settings.endUser().apply(request);
        if (user == null || user.isEmpty()) {
            throw Refusal.of(401).exception();
        }
        return parley.actingFor(user);
    }
}
