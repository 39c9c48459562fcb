package dev.parley.conformance;

import com.google.gson.JsonObject;
import dev.parley.client.ReplyStream;
import java.util.concurrent.CancellationException;
import java.util.concurrent.Semaphore;
import java.util.function.BiConsumer;

/** Reads by the iterator, in a thread of its own. */
final class IteratorPlaying extends Playing {
    private final Semaphore permits = new Semaphore(0);
    private final Thread reader = new Thread(this::read);
    private volatile boolean leaving;

    IteratorPlaying(String name, ReplyStream stream, boolean pull, BiConsumer<String, JsonObject> say) {
        super(name, stream, pull, say);
        reader.setName("player-reader");
        reader.setDaemon(true);
    }

    @Override
    void start() { reader.start(); }

    @Override
    void ask(int count) { permits.release(count); }

    @Override
    void leave(String how) throws InterruptedException {
        switch (how) {
            case "break" -> {
                leaving = true;
                permits.release();
            }
            case "close" -> {
                leaving = true; // so that it does not wait for further events
                stream().close();
                permits.release();
            }
            case "interrupt" -> reader.interrupt();
            default -> throw new IllegalArgumentException("no way to let go: " + how);
        }
        reader.join();
    }

    private void read() {
        RuntimeException failure = null;
        try (ReplyStream stream = stream()) {
            while (mayGoOn() && stream.hasNext()) {
                taken(stream.next());
            }
        } catch (CancellationException | InterruptedException interrupted) {
            // The reader itself left.
        } catch (RuntimeException error) {
            failure = error;
        }
        ended(failure);
    }

    private boolean mayGoOn() throws InterruptedException {
        if (pull) {
            permits.acquire();
        }
        return !leaving;
    }
}
