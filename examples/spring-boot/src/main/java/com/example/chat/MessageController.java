package com.example.chat;

import com.google.protobuf.Duration;
import dev.parley.client.ParleyClient;
import dev.parley.spring.web.*;
import dev.parley.v1.ReplyRequest;
import java.security.Principal;
import org.springframework.http.HttpStatus;
import org.springframework.http.ResponseEntity;
import org.springframework.web.bind.annotation.*;
import org.springframework.web.servlet.mvc.method.annotation.SseEmitter;

/** Takes a message: its answer is polled as a task, or streamed. */
@RestController
@RequestMapping("/api/conversations/{conversationId}/messages")
record MessageController(ParleyClient parley, ReplySse sse, Scenarios scenarios) {
    /** The scenario counts for the first message of a conversation. Objects, since Jackson would make texts of numbers. */
    record Question(Object content, Object scenarioId) {}

    record Started(String taskId, String status) {}

    @PostMapping
    @ResponseStatus(HttpStatus.ACCEPTED)
    Started send(
            @PathVariable String conversationId,
            @RequestBody Question question,
            @RequestHeader(name = "Idempotency-Key", defaultValue = "") String key,
            Principal user) {
        ParleyClient client = parley.actingFor(user.getName());
        var request = request(client, conversationId, question, key).toBuilder().setWait(Duration.getDefaultInstance());
        return new Started(client.createReply(request.build()).getId(), "processing");
    }

    /** The same with the events of the page, for browsers that stream. */
    @PostMapping("/stream")
    ResponseEntity<SseEmitter> stream(
            @PathVariable String conversationId,
            @RequestBody Question question,
            @RequestHeader(name = "Idempotency-Key", defaultValue = "") String key,
            Principal user) {
        ParleyClient client = parley.actingFor(user.getName());
        return sse.send(client.streamReply(request(client, conversationId, question, key)), new PageEvents());
    }

    private ReplyRequest request(ParleyClient client, String conversationId, Question question, String key) {
        if (!(question.content() instanceof String content) || content.isBlank()) {
            throw Refusal.of(400, "INVALID_REQUEST", "Write a message first.").exception();
        }
        client.conversations().ensure(scenarios.conversation(conversationId, question.scenarioId()), content);
        return scenarios.reply().toBuilder()
                .setConversationId(conversationId)
                .setText(content)
                .setRequestId(key)
                .build();
    }
}
