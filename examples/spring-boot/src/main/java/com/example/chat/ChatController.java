package com.example.chat;

import dev.parley.client.ParleyClient;
import dev.parley.client.ReplyStream;
import dev.parley.client.errors.ParleyException;
import dev.parley.client.errors.ReplyNotFoundException;
import dev.parley.v1.CancelRequest;
import dev.parley.v1.Reply;
import dev.parley.v1.ReplyRequest;
import java.util.Map;
import org.springframework.http.HttpStatus;
import org.springframework.http.ResponseEntity;
import org.springframework.web.bind.annotation.CookieValue;
import org.springframework.web.bind.annotation.ExceptionHandler;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestBody;
import org.springframework.web.bind.annotation.RequestHeader;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.servlet.mvc.method.annotation.SseEmitter;

/** A chat for browsers. The cookie is a placeholder for the user: replace it with your authentication. */
@RestController
class ChatController {
    /** The page makes the requestId, so that a repeated request does not call the model twice. */
    record Question(String requestId, String conversationId, String text) {}

    /** One of the two is set: before `accepted` the page has only the id of its request. */
    record Stop(String replyId, String requestId) {
        CancelRequest toRequest() {
            var request = CancelRequest.newBuilder().setReason("user pressed stop");
            return (replyId == null ? request.setRequestId(requestId) : request.setReplyId(replyId)).build();
        }
    }

    private final ParleyClient client;
    private final Browsers browsers;

    ChatController(ParleyClient client, Browsers browsers) {
        this.client = client;
        this.browsers = browsers;
    }

    @PostMapping("/chat")
    SseEmitter ask(@RequestBody Question question, @CookieValue(name = "user", defaultValue = "guest") String user) {
        var request = ReplyRequest.newBuilder().setText(question.text());
        if (question.requestId() != null) {
            request.setRequestId(question.requestId());
        }
        if (question.conversationId() != null) {
            request.setConversationId(question.conversationId());
        }
        return browsers.send(client.actingFor(user).streamReply(request.build()));
    }

    /** For a browser's EventSource, which sends the id of its last event when it reconnects. */
    @GetMapping("/chat")
    SseEmitter askOrResume(
            @RequestParam String text,
            @RequestParam(required = false) String requestId,
            @RequestParam(required = false) String conversationId,
            @RequestHeader(name = "Last-Event-ID", required = false) String last,
            @CookieValue(name = "user", defaultValue = "guest") String user) {
        if (last == null) {
            return ask(new Question(requestId, conversationId, text), user);
        }
        ReplyStream rest = EventId.parse(last).resume(client.actingFor(user));
        return browsers.send(rest);
    }

    @PostMapping("/stop")
    ResponseEntity<Map<String, String>> stop(
            @RequestBody Stop stop, @CookieValue(name = "user", defaultValue = "guest") String user) {
        if (stop.replyId() == null && stop.requestId() == null) {
            return ResponseEntity.badRequest().build();
        }
        try {
            Reply reply = client.actingFor(user).cancel(stop.toRequest());
            return ResponseEntity.ok(Map.of("state", reply.getState().name(), "replyId", reply.getId()));
        } catch (ReplyNotFoundException early) {
            if (stop.replyId() != null) {
                throw early;
            }
            return ResponseEntity.accepted().build(); // it will start as cancelled
        }
    }

    @ExceptionHandler
    ResponseEntity<Browsers.Failed> refused(ParleyException error) {
        HttpStatus status = switch (error.code()) {
            case INVALID_ARGUMENT -> HttpStatus.BAD_REQUEST;
            case NOT_FOUND -> HttpStatus.NOT_FOUND;
            case RESOURCE_EXHAUSTED -> HttpStatus.TOO_MANY_REQUESTS;
            case UNAVAILABLE -> HttpStatus.SERVICE_UNAVAILABLE;
            default -> HttpStatus.BAD_GATEWAY;
        };
        return ResponseEntity.status(status).body(Browsers.Failed.of(error));
    }

    @ExceptionHandler
    ResponseEntity<Void> unreadable(IllegalArgumentException error) { return ResponseEntity.badRequest().build(); }
}
