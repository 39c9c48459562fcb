package dev.parley.conformance;

import com.google.gson.JsonObject;
import dev.parley.client.ReplyEvent;
import dev.parley.client.ReplyListener;
import dev.parley.client.ReplyStream;
import java.util.function.BiConsumer;

/** Reads by a listener. */
final class ListenerPlaying extends Playing implements ReplyListener {
    ListenerPlaying(String name, ReplyStream stream, BiConsumer<String, JsonObject> say) {
        super(name, stream, false, say);
    }

    @Override
    void start() { stream().listen(this); }

    @Override
    void ask(int count) { throw new IllegalArgumentException("a listener does not ask"); }

    @Override
    void leave(String how) {
        if (!how.equals("break") && !how.equals("close")) {
            throw new IllegalArgumentException("no way to let go: " + how);
        }
        stream().close();
        ended(null);
    }

    @Override
    public void onEvent(ReplyEvent event) {
        if (!over()) {
            taken(event);
        }
    }

    @Override
    public void onEnd() { ended(null); }

    @Override
    public void onError(RuntimeException failure) { ended(failure); }
}
