package dev.parley.spring.web;

import dev.parley.client.ReplyEvent.Accepted;
import dev.parley.client.ReplyEvent.Finished;
import dev.parley.client.ReplyEvent.Reconnecting;
import dev.parley.client.ReplyEvent.Snapshot;
import dev.parley.client.ReplyEvent.Text;
import dev.parley.client.ReplyStream;
import dev.parley.client.errors.UnavailableException;

/** The events that the chat page reads: reply, text, snapshot, waiting, finished and failed. */
public final class PageEvents implements ReplyMapping {
    @Override
    public Object accepted(Accepted event, ReplyStream stream) {
        return PageJson.object(
                "type", "reply", "reply_id", event.replyId(), "message_id", event.messageId(), "after", stream.sequence());
    }

    @Override
    public Object text(Text event, ReplyStream stream) {
        return PageJson.object("type", "text", "text", event.text(), "sequence", stream.sequence());
    }

    @Override
    public Object snapshot(Snapshot event, ReplyStream stream) {
        return PageJson.object("type", "snapshot", "text", event.text(), "sequence", stream.sequence());
    }

    @Override
    public Object waiting(Reconnecting event, ReplyStream stream) {
        return PageJson.object("type", "waiting", "attempt", event.attempt(), "delay_ms", event.delay().toMillis());
    }

    @Override
    public Object finished(Finished event, ReplyStream stream) {
        return PageJson.object(
                "type", "finished",
                "reason", event.reason(),
                "cancel_reason", PageJson.orNull(event.cancelReason()),
                "model", event.model(),
                "input_tokens", event.usage().getPromptTokens(),
                "output_tokens", event.usage().getCompletionTokens(),
                "cost_usd", PageJson.cost(event.usage()),
                "message_id", stream.messageId());
    }

    /** Sends nothing if Parley cannot be reached, since the reply may continue: the page attaches again. */
    @Override
    public Object failed(Refusal error, RuntimeException cause, ReplyStream stream) {
        if (cause instanceof UnavailableException) {
            return null;
        }
        var event = PageJson.object("type", "failed");
        event.putAll(error.body());
        event.put("retry_after_s", error.retryAfterS().orElse(null));
        event.put("message_id", stream.messageId());
        return event;
    }
}
