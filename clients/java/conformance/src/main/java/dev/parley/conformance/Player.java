package dev.parley.conformance;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import com.google.gson.JsonParseException;
import com.google.gson.JsonParser;
import com.google.protobuf.Message;
import dev.parley.client.Backoff;
import dev.parley.client.ParleyClient;
import dev.parley.client.ParleyClientBuilder;
import dev.parley.client.ReplyEvent.Finished;
import dev.parley.client.ReplyListener;
import dev.parley.client.ReplyStream;
import dev.parley.conformance.Playing.Form;
import dev.parley.v1.CancelRequest;
import dev.parley.v1.Conversation;
import dev.parley.v1.CreateConversationRequest;
import dev.parley.v1.ListConversationsRequest;
import dev.parley.v1.ListMessagesRequest;
import dev.parley.v1.ListUsageRequest;
import dev.parley.v1.ListUsageRequest.GroupBy;
import dev.parley.v1.PollReplyRequest;
import dev.parley.v1.ReplyRequest;
import dev.parley.v1.ResumeReplyRequest;
import dev.parley.v1.SetProviderKeyRequest;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Iterator;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.NoSuchElementException;
import java.util.TreeMap;
import java.util.UUID;
import java.util.concurrent.CancellationException;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Supplier;
import java.util.stream.Stream;

/**
 * The Java client's player: runs the commands from standard input on the client and prints events on standard output.
 * tests/conformance/PLAYER.md has the protocol. Its argument is the form in which it reads streams: iterator (the
 * default), publisher or listener.
 */
public final class Player {
    /** Runs one command. Returns its answer, or null for none. */
    private interface Command {
        JsonObject carryOut(String id, JsonObject fields) throws InterruptedException;
    }

    private final Form form;
    private final PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
    private final Map<String, ParleyClient> clients = new ConcurrentHashMap<>();
    private final Map<String, Playing> streams = new ConcurrentHashMap<>();
    private final AtomicInteger threads = new AtomicInteger();
    private final ExecutorService commands = Executors.newCachedThreadPool(task -> {
        Thread thread = new Thread(task, "player-command-" + threads.incrementAndGet());
        thread.setDaemon(true);
        return thread;
    });
    private final Open open = new Open();
    private final Map<String, Command> table = Map.ofEntries(
            Map.entry("client", this::client),
            Map.entry("close_client", this::closeClient),
            Map.entry("stream", this::stream),
            Map.entry("resume", this::resume),
            Map.entry("next", this::next),
            Map.entry("abandon", this::abandon),
            Map.entry("stop", this::stop),
            Map.entry("ways", (id, fields) -> Json.result(strings(form().ways))),
            Map.entry("create", this::create),
            Map.entry("poll", (id, fields) -> result(of(fields).poll(pollRequest(fields)))),
            Map.entry("polls", (id, fields) -> items(id, of(fields).polls(pollRequest(fields)))),
            Map.entry("get_reply", (id, fields) -> result(of(fields).getReply(string(fields, "reply_id")))),
            Map.entry("cancel", this::cancel),
            Map.entry("models", (id, fields) -> Json.result(Json.of(of(fields).models()))),
            Map.entry("quotas", (id, fields) -> Json.result(Json.of(of(fields).quotas()))),
            Map.entry("admin.set_provider_key", (id, fields) -> result(
                    of(fields).admin().setProviderKey(message(fields, SetProviderKeyRequest.newBuilder()).build()))),
            Map.entry("admin.provider_keys", (id, fields) -> items(id, of(fields).admin().providerKeys())),
            Map.entry("admin.delete_provider_key", this::deleteProviderKey),
            Map.entry("admin.usage", (id, fields) -> items(id, of(fields).admin().usage(usageRequest(fields)))),
            Map.entry("admin.status", (id, fields) -> result(of(fields).admin().status())),
            Map.entry("conversations.create", (id, fields) -> result(
                    of(fields).conversations().create(message(fields, CreateConversationRequest.newBuilder()).build()))),
            Map.entry("conversations.get", (id, fields) -> result(
                    of(fields).conversations().get(string(fields, "conversation_id")))),
            Map.entry("conversations.list", (id, fields) -> items(
                    id, of(fields).conversations().list(message(fields, ListConversationsRequest.newBuilder()).build()))),
            Map.entry("conversations.update", this::updateConversation),
            Map.entry("conversations.delete", this::deleteConversation),
            Map.entry("conversations.messages", (id, fields) -> items(
                    id, of(fields).conversations().messages(message(fields, ListMessagesRequest.newBuilder()).build()))),
            Map.entry("conversations.message_pages", (id, fields) -> items(
                    id, of(fields).conversations().messagePages(message(fields, ListMessagesRequest.newBuilder()).build()))),
            Map.entry("conversations.image", (id, fields) -> result(
                    of(fields).conversations().image(string(fields, "image_id")))),
            Map.entry("many", this::many),
            Map.entry("stats", this::stats));

    private Player(Form form) {
        this.form = form;
    }

    public static void main(String[] arguments) throws IOException {
        Form form = arguments.length == 0 ? Form.ITERATOR : Form.valueOf(arguments[0].toUpperCase(Locale.ROOT));
        System.exit(new Player(form).run());
    }

    /** Runs until {@code exit} or the end of the input. Returns the exit status. */
    private int run() throws IOException {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        int status = 0;
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            if (line.isBlank()) {
                continue;
            }
            try {
                if (!begin(JsonParser.parseString(line).getAsJsonObject())) {
                    break;
                }
            } catch (JsonParseException | IllegalStateException | NullPointerException unreadable) {
                System.err.println("cannot read this command: " + unreadable + ": " + line);
                status = 2;
                break;
            }
        }
        clients.values().forEach(ParleyClient::close);
        return status;
    }

    private boolean begin(JsonObject fields) {
        String id = fields.remove("id").getAsString();
        String op = fields.remove("op").getAsString();
        if (op.equals("exit")) {
            return false;
        }
        Command command = table.get(op);
        if (command == null) {
            throw new JsonParseException("no such command: " + op);
        }
        // Commands that only start something run in order.
        if (op.equals("client") || op.equals("stream") || op.equals("resume")) {
            carryOut(command, id, fields);
        } else {
            commands.execute(() -> carryOut(command, id, fields));
        }
        return true;
    }

    private void carryOut(Command command, String id, JsonObject fields) {
        JsonObject answer;
        try {
            answer = command.carryOut(id, fields);
        } catch (InterruptedException | CancellationException leaving) {
            return;
        } catch (RuntimeException error) {
            error.printStackTrace();
            answer = Json.of(error);
            answer.addProperty("event", "error");
        }
        if (answer != null) {
            say(id, answer);
        }
    }

    private void say(String id, JsonObject event) {
        event.addProperty("id", id);
        String line = event + "\n";
        synchronized (out) {
            out.print(line);
            out.flush();
        }
    }

    private JsonObject client(String id, JsonObject fields) {
        if (has(fields, "of")) {
            ParleyClient other = clients.get(string(fields, "of")).actingFor(string(fields, "end_user"));
            clients.put(string(fields, "name"), other);
            return Json.event("ready");
        }
        ParleyClientBuilder builder = ParleyClient.builder(string(fields, "address"))
                .endUser(string(fields, "end_user"));
        if (has(fields, "api_key") && fields.get("api_key").isJsonArray()) {
            builder.apiKey(inTurn(fields.getAsJsonArray("api_key")));
        } else {
            builder.apiKey(string(fields, "api_key"));
        }
        if (fields.has("backoff")) {
            JsonObject given = fields.getAsJsonObject("backoff");
            builder.backoff(new Backoff(
                    seconds(given, "first_s", Backoff.DEFAULT.first()),
                    seconds(given, "max_s", Backoff.DEFAULT.max()),
                    seconds(given, "max_elapsed_s", Backoff.DEFAULT.maxElapsed())));
        }
        if (has(fields, "call_timeout_s")) {
            builder.callTimeout(seconds(fields, "call_timeout_s", null));
        }
        if (has(fields, "silence_s")) {
            builder.silence(seconds(fields, "silence_s", null));
        }
        if (has(fields, "attempt_timeout_s")) {
            builder.attemptTimeout(seconds(fields, "attempt_timeout_s", null));
        }
        clients.put(string(fields, "name"), builder.build());
        return Json.event("ready");
    }

    /** Returns these one after the other, and the last one again and again; for null it fails. */
    private static Supplier<String> inTurn(JsonArray credentials) {
        Iterator<JsonElement> left = credentials.iterator();
        JsonElement last = credentials.get(credentials.size() - 1);
        return () -> {
            JsonElement credential = left.hasNext() ? left.next() : last;
            if (credential.isJsonNull()) {
                throw new NoSuchElementException("no credential");
            }
            return credential.getAsString();
        };
    }

    private JsonObject closeClient(String id, JsonObject fields) {
        clients.remove(string(fields, "name")).close();
        return Json.event("closed");
    }

    private JsonObject stream(String id, JsonObject fields) {
        return play(id, fields, of(fields).streamReply(request(fields)));
    }

    private JsonObject resume(String id, JsonObject fields) {
        var request = ResumeReplyRequest.newBuilder().setReplyId(string(fields, "reply_id"));
        if (has(fields, "after_sequence")) {
            request.setAfterSequence(fields.get("after_sequence").getAsInt());
        }
        request.getStreamOptionsBuilder().setReasoning(isTrue(fields, "reasoning"));
        if (has(fields, "heartbeat_s")) {
            request.getStreamOptionsBuilder().setHeartbeat(Json.duration(fields.get("heartbeat_s").getAsDouble()));
        }
        return play(id, fields, of(fields).resume(request.build()));
    }

    private JsonObject play(String id, JsonObject fields, ReplyStream stream) {
        boolean pull = isTrue(fields, "pull");
        Playing playing = switch (form) {
            case ITERATOR -> new IteratorPlaying(id, stream, pull, this::say);
            case PUBLISHER -> new PublisherPlaying(id, stream, pull, this::say);
            case LISTENER -> pull
                    ? new PublisherPlaying(id, stream, true, this::say)
                    : new ListenerPlaying(id, stream, this::say);
        };
        streams.put(id, playing);
        playing.start();
        return null;
    }

    private JsonObject next(String id, JsonObject fields) throws InterruptedException {
        JsonObject taken = Json.event("taken");
        taken.addProperty("count", streams.get(string(fields, "stream")).take(fields.get("count").getAsInt()));
        return taken;
    }

    private JsonObject abandon(String id, JsonObject fields) throws InterruptedException {
        Playing playing = streams.get(string(fields, "stream"));
        if (!playing.over()) {
            playing.leave(string(fields, "how"));
            playing.awaitEnd();
        }
        return Json.event("abandoned");
    }

    private JsonObject stop(String id, JsonObject fields) {
        ReplyStream stream = streams.get(string(fields, "stream")).stream();
        return Json.result(stream.cancel(string(fields, "reason")).map(Json::of).orElse(JsonNull.INSTANCE));
    }

    private JsonObject create(String id, JsonObject fields) {
        ReplyRequest request = request(fields);
        if (has(fields, "wait_s")) {
            request = request.toBuilder().setWait(Json.duration(fields.get("wait_s").getAsDouble())).build();
        }
        return result(of(fields).createReply(request));
    }

    private JsonObject cancel(String id, JsonObject fields) {
        long named = Stream.of("reply_id", "request_id", "conversation_id")
                .filter(name -> !string(fields, name).isEmpty())
                .count();
        if (named > 1) { // a CancelRequest cannot have two targets
            throw new IllegalArgumentException("name exactly one of reply_id, request_id and conversation_id");
        }
        return result(of(fields).cancel(message(fields, CancelRequest.newBuilder()).build()));
    }

    private JsonObject updateConversation(String id, JsonObject fields) {
        String[] names = has(fields, "fields")
                ? fields.getAsJsonArray("fields").asList().stream().map(JsonElement::getAsString).toArray(String[]::new)
                : new String[0];
        var changed = Json.read(fields.get("conversation"), Conversation.newBuilder()).build();
        return result(of(fields).conversations().update(changed, names));
    }

    private JsonObject deleteConversation(String id, JsonObject fields) {
        of(fields).conversations().delete(string(fields, "conversation_id"), string(fields, "etag"));
        return Json.result(JsonNull.INSTANCE);
    }

    private JsonObject deleteProviderKey(String id, JsonObject fields) {
        of(fields).admin().deleteProviderKey(string(fields, "provider"), string(fields, "tenant"));
        return Json.result(JsonNull.INSTANCE);
    }

    private static ListUsageRequest usageRequest(JsonObject fields) {
        JsonObject plain = fields.deepCopy();
        JsonElement groups = plain.remove("group_by");
        var request = message(plain, ListUsageRequest.newBuilder());
        if (groups != null) {
            groups.getAsJsonArray().forEach(name -> request.addGroupBy(
                    GroupBy.valueOf("GROUP_BY_" + name.getAsString().toUpperCase(Locale.ROOT))));
        }
        return request.build();
    }

    private JsonObject many(String id, JsonObject fields) throws InterruptedException {
        int count = fields.get("count").getAsInt();
        ReplyRequest request = request(fields);
        CountDownLatch running = new CountDownLatch(count);
        Map<String, Integer> texts = new TreeMap<>();
        for (int i = 0; i < count; i++) {
            ReplyRequest own = request.toBuilder().setRequestId(UUID.randomUUID().toString()).build();
            ReplyStream stream = of(fields).streamReply(own);
            stream.listen(ended(stream, running, texts));
        }
        running.await();
        JsonObject value = new JsonObject();
        synchronized (texts) {
            JsonObject counts = new JsonObject();
            texts.forEach(counts::addProperty);
            int finished = texts.values().stream().mapToInt(Integer::intValue).sum();
            value.addProperty("finished", finished);
            value.addProperty("failed", count - finished);
            value.add("texts", counts);
        }
        return Json.result(value);
    }

    private static ReplyListener ended(ReplyStream stream, CountDownLatch running, Map<String, Integer> texts) {
        return new ReplyListener() {
            @Override
            public void onEvent(dev.parley.client.ReplyEvent event) {}

            @Override
            public void onEnd() {
                stream.finished().map(Finished::text).ifPresent(text -> {
                    synchronized (texts) {
                        texts.merge(text, 1, Integer::sum);
                    }
                });
                running.countDown();
            }

            @Override
            public void onError(RuntimeException failure) {
                System.err.println("one of many: " + failure);
                running.countDown();
            }
        };
    }

    private JsonObject stats(String id, JsonObject fields) {
        System.gc();
        Runtime runtime = Runtime.getRuntime();
        JsonObject value = new JsonObject();
        value.addProperty("rss_bytes", Open.statusBytes("VmRSS"));
        value.addProperty("heap_bytes", runtime.totalMemory() - runtime.freeMemory());
        value.add("open", open.beyondIdle());
        return Json.result(value);
    }

    private JsonObject items(String id, Stream<? extends Message> items) {
        items.forEach(item -> {
            JsonObject event = Json.event("item");
            event.add("value", Json.of(item));
            say(id, event);
        });
        return Json.event("end");
    }

    private Form form() { return form; }

    private ParleyClient of(JsonObject fields) { return clients.get(string(fields, "client")); }

    private static JsonObject result(Message message) { return Json.result(Json.of(message)); }

    private static ReplyRequest request(JsonObject fields) {
        return Json.read(fields.get("request"), ReplyRequest.newBuilder()).build();
    }

    private static PollReplyRequest pollRequest(JsonObject fields) {
        JsonObject plain = fields.deepCopy();
        for (String name : List.of("wait", "gather")) {
            JsonElement seconds = plain.remove(name + "_s");
            if (seconds != null && !seconds.isJsonNull()) {
                plain.add(name, Json.of(Json.duration(seconds.getAsDouble())));
            }
        }
        return message(plain, PollReplyRequest.newBuilder()).build();
    }

    /** Returns the message with the fields of the command. */
    private static <B extends Message.Builder> B message(JsonObject fields, B into) {
        JsonObject own = fields.deepCopy();
        own.remove("client");
        return Json.read(own, into);
    }

    private static JsonElement strings(List<String> values) {
        var array = new com.google.gson.JsonArray();
        values.forEach(array::add);
        return array;
    }

    private static boolean has(JsonObject fields, String name) {
        return fields.has(name) && !fields.get(name).isJsonNull();
    }

    private static boolean isTrue(JsonObject fields, String name) {
        return has(fields, name) && fields.get(name).getAsBoolean();
    }

    private static String string(JsonObject fields, String name) {
        return has(fields, name) ? fields.get(name).getAsString() : "";
    }

    private static Duration seconds(JsonObject fields, String name, Duration otherwise) {
        return has(fields, name) ? Duration.ofNanos(Math.round(fields.get(name).getAsDouble() * 1e9)) : otherwise;
    }
}
