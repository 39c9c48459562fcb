package dev.parley.conformance;

import com.google.gson.JsonObject;
import dev.parley.client.ReplyEvent;
import dev.parley.client.ReplyStream;
import java.util.concurrent.Flow;
import java.util.function.BiConsumer;

/** Reads by a subscriber. */
final class PublisherPlaying extends Playing implements Flow.Subscriber<ReplyEvent> {
    private Flow.Subscription subscription;

    PublisherPlaying(String name, ReplyStream stream, boolean pull, BiConsumer<String, JsonObject> say) {
        super(name, stream, pull, say);
    }

    @Override
    void start() { stream().subscribe(this); }

    @Override
    void ask(int count) { subscription.request(count); }

    @Override
    void leave(String how) {
        switch (how) {
            case "break", "cancel" -> subscription.cancel();
            case "close" -> stream().close();
            default -> throw new IllegalArgumentException("no way to let go: " + how);
        }
        ended(null);
    }

    @Override
    public void onSubscribe(Flow.Subscription made) {
        subscription = made;
        if (!pull) {
            made.request(Long.MAX_VALUE);
        }
    }

    @Override
    public void onNext(ReplyEvent event) {
        if (!over()) {
            taken(event);
        }
    }

    @Override
    public void onError(Throwable failure) { ended((RuntimeException) failure); }

    @Override
    public void onComplete() { ended(null); }
}
