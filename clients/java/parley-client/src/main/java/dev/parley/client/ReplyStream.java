package dev.parley.client;

import dev.parley.client.ReplyEvent.Finished;
import dev.parley.client.errors.NotFoundException;
import dev.parley.v1.CancelRequest;
import dev.parley.v1.ChatGrpc;
import dev.parley.v1.Reply;
import dev.parley.v1.ReplyRequest;
import dev.parley.v1.StreamOptions;
import java.util.Iterator;
import java.util.List;
import java.util.NoSuchElementException;
import java.util.Objects;
import java.util.Optional;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.Flow;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.atomic.AtomicBoolean;

/**
 * The events of one reply, for one reader, in one of three forms: a blocking iterator, a {@linkplain #listen listener},
 * or a {@linkplain #subscribe publisher}. The first read starts the call.
 *
 * <p>After a cut it reconnects with the client's backoff. It ends after {@link Finished}. It fails with
 * {@link dev.parley.client.errors.ReplyFailedException} (with the partial text) if the reply failed, with
 * {@link dev.parley.client.errors.ConnectionLostException} if it could not reconnect after the reply was accepted, or
 * with another {@link dev.parley.client.errors.ParleyException} if the request was refused.
 *
 * <p>{@link #close}, cancelling the subscription and interrupting the waiting thread end the call at once; the
 * request's {@code on_disconnect} decides whether the reply continues. Close an iterator that is not read to its end:
 * use try-with-resources.
 */
public final class ReplyStream
        implements Iterator<ReplyEvent>, Iterable<ReplyEvent>, Flow.Publisher<ReplyEvent>, AutoCloseable {
    private static final Object END = new Object();

    private final Connection connection;
    private final Transcript transcript;
    /** Null for a resumed reply. */
    private final ReplyRequest request;
    private final StreamOptions options;
    private final Follower follower;
    private final AtomicBoolean taken = new AtomicBoolean();
    private Box box;
    private ReplyEvent next;
    private boolean over;

    ReplyStream(Connection connection, Transcript transcript, ReplyRequest request, StreamOptions options) {
        this.connection = connection;
        this.transcript = transcript;
        this.request = request;
        this.options = options;
        this.follower = new Follower(connection, transcript, request, options);
    }

    /** The idempotency key of the request; empty for a stream from {@code resume}. */
    public String requestId() {
        return request == null ? "" : request.getRequestId();
    }

    /** Empty until the reply is accepted. */
    public String replyId() {
        return transcript.replyId();
    }

    /** The reply's conversation; for a new conversation empty until the reply is accepted. */
    public String conversationId() {
        var accepted = transcript.accepted();
        if (accepted != null) {
            return accepted.conversationId();
        }
        return request == null ? "" : request.getConversationId();
    }

    /** The message for the answer; empty until the reply is accepted. */
    public String messageId() {
        var accepted = transcript.accepted();
        return accepted == null ? "" : accepted.messageId();
    }

    /** The cursor: the sequence of the last chunk that was read. */
    public int sequence() {
        return transcript.sequence();
    }

    /** The text that was read so far. */
    public String text() {
        return transcript.text();
    }

    /** The tool calls that were read so far, each with its joined arguments. */
    public List<ReplyEvent.ToolCall> toolCalls() {
        return transcript.toolCalls();
    }

    /** The last event, once it was read. */
    public Optional<ReplyEvent.Finished> finished() {
        return Optional.ofNullable(transcript.finished());
    }

    /** Returns this stream, which can be iterated once. */
    @Override
    public Iterator<ReplyEvent> iterator() { return this; }

    /**
     * Waits for the next event. An interrupt ends the call, and throws a
     * {@link java.util.concurrent.CancellationException} with the thread's interrupt flag set.
     */
    @Override
    public boolean hasNext() {
        if (next != null || over) {
            return next != null;
        }
        if (box == null) {
            take();
            box = new Box(new LinkedBlockingQueue<>());
            follower.start(new Listening(box, 1));
        } else {
            follower.request(1);
        }
        Object signal = box.take(this);
        next = signal instanceof ReplyEvent event ? event : null;
        over = next == null;
        if (signal instanceof RuntimeException failure) {
            throw failure;
        }
        return !over;
    }

    @Override
    public ReplyEvent next() {
        if (!hasNext()) {
            throw new NoSuchElementException();
        }
        ReplyEvent event = next;
        next = null;
        return event;
    }

    /** Passes the events to the listener as they arrive. Returns at once. */
    public void listen(ReplyListener listener) {
        Objects.requireNonNull(listener);
        take();
        follower.start(new Listening(listener, Long.MAX_VALUE));
    }

    /**
     * Passes the events to a subscriber on its demand; HTTP/2's flow control slows the server down. A stream has one
     * subscriber; a second one gets {@code onError} with an IllegalStateException.
     */
    @Override
    public void subscribe(Flow.Subscriber<? super ReplyEvent> subscriber) {
        Objects.requireNonNull(subscriber);
        if (taken.compareAndSet(false, true)) {
            follower.start(subscriber);
        } else {
            var refused = new Follower(connection, transcript, request, options);
            refused.fail(alreadyTaken());
            refused.start(subscriber);
        }
    }

    /** Ends the call at once, not the reply. A reader, also in another thread, then sees an end without an error. */
    @Override
    public void close() { follower.close(); }

    /** As {@link #cancel(String)}, without a reason. */
    public Optional<Reply> cancel() { return cancel(""); }

    /**
     * Cancels the reply on the server. The stream then ends with {@link Finished}; the partial text is stored.
     *
     * @return the cancelled reply; empty if the server has not received the request yet, which it will then accept as
     *     cancelled
     */
    public Optional<Reply> cancel(String reason) {
        String replyId = replyId();
        var target = CancelRequest.newBuilder().setReason(reason);
        target = replyId.isEmpty() ? target.setRequestId(requestId()) : target.setReplyId(replyId);
        try {
            return Optional.of(connection.call(ChatGrpc.getCancelMethod(), target.build()));
        } catch (NotFoundException unknown) {
            if (replyId.isEmpty()) {
                return Optional.empty();
            }
            throw unknown;
        }
    }

    private void take() {
        if (!taken.compareAndSet(false, true)) {
            throw alreadyTaken();
        }
    }

    private static IllegalStateException alreadyTaken() {
        return new IllegalStateException("the stream already has a reader; use resume to read the reply again");
    }

    /** The queue from which the iterating thread reads. */
    private record Box(BlockingQueue<Object> signals) implements ReplyListener {
        Object take(ReplyStream stream) {
            try {
                return signals.take();
            } catch (InterruptedException e) {
                stream.close();
                return Connection.interrupted(e);
            }
        }

        @Override
        public void onEvent(ReplyEvent event) { signals.add(event); }

        @Override
        public void onError(RuntimeException failure) { signals.add(failure); }

        @Override
        public void onEnd() { signals.add(END); }
    }

    /** A subscriber that requests {@code demand} events once and passes them to a listener. */
    private record Listening(ReplyListener listener, long demand) implements Flow.Subscriber<ReplyEvent> {
        @Override
        public void onSubscribe(Flow.Subscription subscription) { subscription.request(demand); }

        @Override
        public void onNext(ReplyEvent event) { listener.onEvent(event); }

        @Override
        public void onError(Throwable failure) { listener.onError((RuntimeException) failure); }

        @Override
        public void onComplete() { listener.onEnd(); }
    }
}
