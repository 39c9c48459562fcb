package com.example.chat;

import dev.parley.client.errors.ReplyInProgressException;
import dev.parley.spring.web.RefusalAdvice;
import java.util.Map;
import org.springframework.web.bind.annotation.RestControllerAdvice;

/** All errors have the same JSON; that of a second message also names the task that runs. */
@RestControllerAdvice
class Refusals extends RefusalAdvice {
    @Override
    protected Map<String, ?> details(Exception error) {
        return error instanceof ReplyInProgressException busy ? Map.of("task_id", busy.replyId()) : Map.of();
    }
}
