package dev.parley.conformance;

import com.google.gson.JsonObject;
import dev.parley.client.ReplyEvent;
import dev.parley.client.ReplyStream;
import java.util.List;
import java.util.function.BiConsumer;

/** One stream, and its reader in one of the client's forms. */
abstract class Playing {
    final String name;
    final boolean pull;
    private final BiConsumer<String, JsonObject> say;
    private final ReplyStream stream;
    private long left;
    private boolean over;

    Playing(String name, ReplyStream stream, boolean pull, BiConsumer<String, JsonObject> say) {
        this.name = name;
        this.stream = stream;
        this.pull = pull;
        this.say = say;
    }

    /** The form in which a player reads its streams. */
    enum Form {
        ITERATOR(List.of("break", "close", "interrupt")),
        PUBLISHER(List.of("break", "cancel", "close")),
        LISTENER(List.of("break", "close"));

        final List<String> ways;

        Form(List<String> ways) {
            this.ways = ways;
        }
    }

    ReplyStream stream() { return stream; }

    /** Starts to read everything; with {@code pull} only on demand. */
    abstract void start();

    /** Requests more events. */
    abstract void ask(int count);

    /** Leaves the stream, in one of the ways of its form. */
    abstract void leave(String how) throws InterruptedException;

    /** Requests events and returns how many arrived. */
    synchronized int take(int count) throws InterruptedException {
        left = count;
        if (!over) {
            ask(count);
        }
        while (left > 0 && !over) {
            wait();
        }
        return (int) (count - left);
    }

    synchronized void awaitEnd() throws InterruptedException {
        while (!over) {
            wait();
        }
    }

    synchronized void taken(ReplyEvent event) {
        JsonObject shown = Json.of(event);
        shown.addProperty("sequence", stream.sequence());
        say.accept(name, shown);
        left--;
        notifyAll();
    }

    /** Records the end of the stream; only the first one counts. */
    synchronized void ended(RuntimeException failure) {
        if (over) {
            return;
        }
        over = true;
        JsonObject known = Json.known(stream);
        JsonObject last = known;
        if (failure == null) {
            last.addProperty("event", "end");
        } else {
            last = Json.of(failure);
            last.addProperty("event", "error");
            last.add("stream", known);
        }
        say.accept(name, last);
        notifyAll();
    }

    synchronized boolean over() { return over; }
}
