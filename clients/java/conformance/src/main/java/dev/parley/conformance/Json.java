package dev.parley.conformance;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.protobuf.Duration;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.protobuf.MessageOrBuilder;
import com.google.protobuf.util.JsonFormat;
import dev.parley.client.ReplyEvent;
import dev.parley.client.ReplyEvent.Accepted;
import dev.parley.client.ReplyEvent.Finished;
import dev.parley.client.ReplyEvent.Reasoning;
import dev.parley.client.ReplyEvent.Reconnecting;
import dev.parley.client.ReplyEvent.Snapshot;
import dev.parley.client.ReplyEvent.Text;
import dev.parley.client.ReplyEvent.ToolCall;
import dev.parley.client.ReplyEvent.UsageUpdate;
import dev.parley.client.ReplyStream;
import dev.parley.client.errors.ConnectionLostException;
import dev.parley.client.errors.ParleyException;
import dev.parley.client.errors.ReplyFailedException;
import java.util.List;

/** The JSON of commands, events and messages, as PLAYER.md defines it. */
final class Json {
    private static final JsonFormat.Printer PRINTER =
            JsonFormat.printer().preservingProtoFieldNames().omittingInsignificantWhitespace();

    private Json() {}

    static JsonElement of(MessageOrBuilder message) {
        try {
            return JsonParser.parseString(PRINTER.print(message));
        } catch (InvalidProtocolBufferException e) {
            throw new IllegalArgumentException(e);
        }
    }

    static JsonArray of(List<? extends MessageOrBuilder> messages) {
        JsonArray array = new JsonArray();
        messages.forEach(message -> array.add(of(message)));
        return array;
    }

    /** Returns the message of this object; an empty one if it is absent. */
    static <B extends Message.Builder> B read(JsonElement object, B into) {
        if (object != null) {
            try {
                JsonFormat.parser().merge(object.toString(), into);
            } catch (InvalidProtocolBufferException e) {
                throw new IllegalArgumentException(e);
            }
        }
        return into;
    }

    static JsonObject event(String kind) {
        JsonObject event = new JsonObject();
        event.addProperty("event", kind);
        return event;
    }

    static JsonObject result(JsonElement value) {
        JsonObject event = event("result");
        event.add("value", value);
        return event;
    }

    static JsonObject of(ReplyEvent event) {
        JsonObject shown;
        if (event instanceof Accepted accepted) {
            shown = event("accepted");
            shown.addProperty("reply_id", accepted.replyId());
            shown.addProperty("conversation_id", accepted.conversationId());
            shown.addProperty("message_id", accepted.messageId());
            JsonArray inputs = new JsonArray();
            accepted.inputMessageIds().forEach(inputs::add);
            shown.add("input_message_ids", inputs);
            shown.addProperty("model", accepted.model());
            shown.addProperty("replayed", accepted.replayed());
            JsonArray ignored = new JsonArray();
            accepted.ignoredSettings().forEach(ignored::add);
            shown.add("ignored_settings", ignored);
            shown.add("quota", accepted.quota().map(Json::of).orElse(JsonNull.INSTANCE));
        } else if (event instanceof Text text) {
            shown = event("text");
            shown.addProperty("text", text.text());
        } else if (event instanceof Reasoning reasoning) {
            shown = event("reasoning");
            shown.addProperty("text", reasoning.text());
        } else if (event instanceof ToolCall call) {
            shown = of(call);
            shown.addProperty("event", "tool_call");
        } else if (event instanceof UsageUpdate update) {
            shown = event("usage");
            shown.add("usage", of(update.usage()));
        } else if (event instanceof Snapshot snapshot) {
            shown = event("snapshot");
            shown.addProperty("text", snapshot.text());
            shown.add("reply", of(snapshot.reply()));
        } else if (event instanceof Reconnecting cut) {
            shown = event("reconnecting");
            shown.addProperty("attempt", cut.attempt());
            shown.addProperty("delay_s", cut.delay().toNanos() / 1e9);
            shown.add("error", of(cut.error()));
        } else {
            Finished finished = (Finished) event;
            shown = event("finished");
            shown.addProperty("reason", finished.reason());
            shown.addProperty("text", finished.text());
            shown.addProperty("model", finished.model());
            shown.addProperty("provider", finished.provider());
            shown.addProperty("cancel_reason", finished.cancelReason());
            shown.add("usage", of(finished.usage()));
        }
        return shown;
    }

    /** The state of a stream. */
    static JsonObject known(ReplyStream stream) {
        JsonObject known = new JsonObject();
        known.addProperty("request_id", stream.requestId());
        known.addProperty("reply_id", stream.replyId());
        known.addProperty("conversation_id", stream.conversationId());
        known.addProperty("message_id", stream.messageId());
        known.addProperty("sequence", stream.sequence());
        known.addProperty("text", stream.text());
        JsonArray calls = new JsonArray();
        stream.toolCalls().forEach(call -> calls.add(of(call)));
        known.add("tool_calls", calls);
        return known;
    }

    static JsonObject of(RuntimeException error) {
        JsonObject json = new JsonObject();
        if (!(error instanceof ParleyException failure)) {
            json.addProperty("kind", "Usage");
            json.addProperty("message", String.valueOf(error.getMessage()));
            return json;
        }
        String name = error.getClass().getSimpleName().replaceFirst("Exception$", "");
        json.addProperty("kind", name.equals("Parley") ? "ParleyError" : name);
        json.addProperty("reason", failure.reason());
        json.addProperty("code", failure.code().name());
        json.addProperty("message", failure.failure().message());
        json.addProperty("retryable", failure.retryable());
        json.add("retry_after_s", JsonNull.INSTANCE);
        failure.retryAfter().ifPresent(wait -> json.addProperty("retry_after_s", wait.toNanos() / 1e9));
        JsonObject metadata = new JsonObject();
        failure.metadata().forEach(metadata::addProperty);
        json.add("metadata", metadata);
        if (failure instanceof ReplyFailedException failed) {
            json.addProperty("text", failed.text());
            json.addProperty("reply_id", failed.replyId());
            json.addProperty("message_id", failed.messageId());
            json.add("usage", of(failed.usage()));
            json.addProperty("model", failed.model());
            json.addProperty("provider", failed.provider());
        } else if (failure instanceof ConnectionLostException lost) {
            json.addProperty("reply_id", lost.replyId());
            json.addProperty("sequence", lost.sequence());
            json.addProperty("text", lost.text());
        }
        return json;
    }

    static Duration duration(double seconds) {
        long nanos = Math.round(seconds * 1e9);
        return Duration.newBuilder().setSeconds(nanos / 1_000_000_000).setNanos((int) (nanos % 1_000_000_000)).build();
    }

    private static JsonObject of(ToolCall call) {
        JsonObject shown = new JsonObject();
        shown.addProperty("index", call.index());
        shown.addProperty("call_id", call.id());
        shown.addProperty("name", call.name());
        shown.addProperty("arguments", call.arguments());
        return shown;
    }
}
