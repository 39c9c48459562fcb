package com.example.chat;

import dev.parley.client.ParleyClient;
import dev.parley.spring.web.Refusal;
import dev.parley.v1.PollReplyRequest;
import dev.parley.v1.Reply;
import java.security.Principal;
import java.time.Duration;
import java.time.Instant;
import org.springframework.web.bind.annotation.*;

/** Answers polls. A task is a reply of Parley, which keeps it, so that this application has no state to lose. */
@RestController
record TaskController(ParleyClient parley, ChatProperties chat) {
    /**
     * Returns the task at once, or with {@code wait} within so many seconds (at most 60), as soon as there is news.
     *
     * @param after the number of chunks that the caller has; by default those of this moment
     */
    @GetMapping({"/api/tasks/{taskId}", "/api/conversations/tasks/{taskId}"})
    Task task(
            @PathVariable String taskId,
            @RequestParam(defaultValue = "0") int wait,
            @RequestParam(defaultValue = "-1") int after,
            Principal user) {
        ParleyClient client = parley.actingFor(user.getName());
        Instant end = Instant.now().plusSeconds(wait);
        Reply reply = client.getReply(taskId);
        Task task = Task.of(reply);
        int known = after < 0 ? task.chunks().size() : after;
        while (Task.isRunning(reply) && task.chunks().size() <= known && Instant.now().isBefore(end)) {
            awaitChunk(client, reply, Duration.between(Instant.now(), end));
            reply = client.getReply(taskId);
            task = Task.of(reply);
        }
        if (!Task.isRunning(reply) && Task.time(reply.getEndTime()).plus(chat.taskTtl()).isBefore(Instant.now())) {
            throw Refusal.of(404, "REPLY_NOT_FOUND", "This task has expired.").exception();
        }
        return task;
    }

    private static void awaitChunk(ParleyClient client, Reply reply, Duration left) {
        client.poll(PollReplyRequest.newBuilder()
                .setReplyId(reply.getId())
                .setAfterSequence(reply.getLastSequence())
                .setWait(com.google.protobuf.Duration.newBuilder().setSeconds(left.toSeconds()).setNanos(left.toNanosPart()))
                .build());
    }
}
