package dev.parley.client;

import java.util.concurrent.Flow;

/** What a subscriber of a stream holds. The follower makes its signals serial and keeps them from recursing. */
final class ReplySubscription implements Flow.Subscription, Follower.Sink {
    /** Of a subscriber that is turned away. */
    static final Flow.Subscription NONE = new Flow.Subscription() {
        @Override
        public void request(long count) {}

        @Override
        public void cancel() {}
    };

    private final Follower follower;
    private final Flow.Subscriber<? super ReplyEvent> subscriber;

    ReplySubscription(Follower follower, Flow.Subscriber<? super ReplyEvent> subscriber) {
        this.follower = follower;
        this.subscriber = subscriber;
    }

    @Override
    public void request(long count) {
        if (count > 0) {
            follower.request(count);
        } else {
            follower.fail(new IllegalArgumentException("§3.9: at least one event must be requested, not " + count));
        }
    }

    @Override
    public void cancel() { follower.forget(); }

    @Override
    public void event(ReplyEvent event) { subscriber.onNext(event); }

    @Override
    public void ended(RuntimeException failure) {
        if (failure == null) {
            subscriber.onComplete();
        } else {
            subscriber.onError(failure);
        }
    }
}
