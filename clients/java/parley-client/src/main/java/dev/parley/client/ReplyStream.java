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
 * The events of one reply, for one reader, in one of three forms: an iterator that blocks, a {@linkplain #listen listener},
 * or a {@linkplain #subscribe publisher}. Nothing is sent before the reader begins.
 *
 * <p>After a cut it attaches again by itself, with the client's backoff. It ends after {@link Finished}, or fails with
 * {@link dev.parley.client.errors.ReplyFailedException} (which has the partial text) for a reply that failed, with
 * {@link dev.parley.client.errors.ConnectionLostException} where it gave up after the reply was accepted, or with another
 * {@link dev.parley.client.errors.ParleyException} where the request was refused.
 *
 * <p>To {@linkplain #close} it, to cancel its subscription or to interrupt the thread that waits for it ends the call at
 * once, and leaves the reply to its {@code on_disconnect}. Close an iterator that is not read to its end: use
 * try-with-resources.
 */
public final class ReplyStream
        implements Iterator<ReplyEvent>, Iterable<ReplyEvent>, Flow.Publisher<ReplyEvent>, AutoCloseable {
    private static final Object END = new Object();

    private final Connection connection;
    private final Transcript transcript;
    /** Null for a reply that was resumed. */
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

    /** The idempotency key of the request; empty for a stream made by {@code resume}. */
    public String requestId() {
        return request == null ? "" : request.getRequestId();
    }

    /** Empty until the reply is accepted. */
    public String replyId() {
        return transcript.replyId();
    }

    /** Where the reply is; of a new conversation, empty until the reply is accepted. */
    public String conversationId() {
        var accepted = transcript.accepted();
        if (accepted != null) {
            return accepted.conversationId();
        }
        return request == null ? "" : request.getConversationId();
    }

    /** The message that will hold the answer; empty until the reply is accepted. */
    public String messageId() {
        var accepted = transcript.accepted();
        return accepted == null ? "" : accepted.messageId();
    }

    /** The cursor: to resume the reply after it goes on from here. */
    public int sequence() {
        return transcript.sequence();
    }

    /** The answer as far as it has been read. */
    public String text() {
        return transcript.text();
    }

    /** The tool calls as far as they have been read, each with its arguments joined. */
    public List<ReplyEvent.ToolCall> toolCalls() {
        return transcript.toolCalls();
    }

    /** The end, once it has been read. */
    public Optional<ReplyEvent.Finished> finished() {
        return Optional.ofNullable(transcript.finished());
    }

    /** Itself: it can be iterated once. */
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

    /** Gives the events to the listener as they come. Returns at once. */
    public void listen(ReplyListener listener) {
        Objects.requireNonNull(listener);
        take();
        follower.start(new Listening(listener, Long.MAX_VALUE));
    }

    /**
     * Gives the events to a subscriber as it asks for them; at most a few are read ahead, then the server is held back. A
     * stream has one subscriber; a further one gets {@code onError} with an IllegalStateException.
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

    /** Ends the call, not the reply, at once. Its reader, in another thread too, then sees an end without an error. */
    @Override
    public void close() { follower.close(); }

    /** As {@link #cancel(String)}, without a reason. */
    public Optional<Reply> cancel() { return cancel(""); }

    /**
     * Stops the reply on the server; the stream then ends with {@link Finished}, its partial text kept.
     *
     * @return the reply as it was stopped. Empty: the server has not seen the request yet, and will accept it as already
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
        return new IllegalStateException("the stream has a reader already: make another by resume");
    }

    /** What the thread that iterates waits for. */
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

    /** Asks for so many events at once. */
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
