package dev.parley.client;

import dev.parley.client.ReplyEvent.Accepted;
import dev.parley.client.errors.ConnectionLostException;
import dev.parley.client.errors.Failure;
import dev.parley.client.errors.ParleyException;
import dev.parley.client.errors.TooManyReadersException;
import dev.parley.v1.ChatGrpc;
import dev.parley.v1.ReplyRequest;
import dev.parley.v1.ResumeReplyRequest;
import dev.parley.v1.StreamOptions;
import dev.parley.v1.TokenChunk;
import io.grpc.ClientCall;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.SynchronizationContext;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.Optional;
import java.util.Queue;
import java.util.concurrent.Flow;
import java.util.concurrent.Future;

/**
 * Follows one reply over as many calls as it takes, and gives its events to a subscriber as that asks for them. The one
 * engine below the iterator, the listener and the publisher.
 *
 * <p>All its state is touched in {@code turns} alone, one task at a time, on whatever thread brought the task: that makes
 * signals serial and keeps a subscriber that asks for more within a signal from recursing. At most {@link #AHEAD_BYTES} and
 * one chunk wait for the subscriber; beyond them HTTP/2's flow control holds the server back.
 */
final class Follower implements Flow.Subscription {
    private static final int AHEAD_BYTES = 64 * 1024;
    /** How long a call may take to say its status after its terminal chunk, before it is dropped. */
    private static final Duration FAREWELL = Duration.ofSeconds(1);

    private final SynchronizationContext turns = new SynchronizationContext(this::broke);
    private final Connection connection;
    private final Transcript transcript;
    private final ReplyRequest request;
    private final StreamOptions options;
    private final Patience patience;
    /** Nothing more is wanted: seen at once by a turn that is running on another thread. */
    private volatile boolean closed;
    /** Null before the start and after the end, and once it is forgotten. */
    private volatile Flow.Subscriber<? super ReplyEvent> subscriber;

    private ReplyListener observer = event -> {};
    private long demand;
    private long waitingSince;
    private Attempt attempt;
    private Future<?> pause;
    private boolean done;
    private RuntimeException failure;

    /** A request that is null is a reply to resume. */
    Follower(Connection connection, Transcript transcript, ReplyRequest request, StreamOptions options) {
        this.connection = connection;
        this.transcript = transcript;
        this.request = request;
        this.options = options;
        this.patience = new Patience(connection.settings.backoff());
    }

    /** Begins to feed the subscriber. Nothing is called before its first demand. */
    void start(Flow.Subscriber<? super ReplyEvent> to) {
        turns.execute(() -> {
            subscriber = to;
            if (!done) {
                watch(() -> observer = connection.settings.observer().get());
            }
            to.onSubscribe(this);
            if (done) {
                tell();
            } else if (!connection.enter(this)) {
                end(Connection.closedException());
            }
        });
    }

    @Override
    public void request(long count) {
        turns.execute(() -> {
            if (count <= 0) {
                end(new IllegalArgumentException("§3.9: at least one event must be requested, not " + count));
            }
            waitingSince = demand == 0 ? System.nanoTime() : waitingSince;
            demand = demand + count < 0 ? Long.MAX_VALUE : demand + count;
            drain();
        });
    }

    /** Ends the call, and lets go of the subscriber without a word. */
    @Override
    public void cancel() {
        subscriber = null;
        close();
    }

    /** Ends the call, not the reply, and tells the subscriber. */
    void close() {
        closed = true;
        fail(null);
    }

    /** Ends the call with a failure of the reader's or the client's own. */
    void fail(RuntimeException why) { turns.execute(() -> end(why)); }

    private void drain() {
        while (demand > 0 && pause == null && !done && !closed) {
            if (attempt == null) {
                attempt = attach();
            }
            Object next = attempt.poll();
            if (next == null) {
                return;
            } else if (next instanceof TokenChunk chunk) {
                take(chunk);
            } else {
                cut((Failure) next);
            }
        }
    }

    private Attempt attach() {
        connection.wake();
        waitingSince = System.nanoTime();
        if (request != null && transcript.replyId().isEmpty()) {
            return new Attempt(ChatGrpc.getStreamReplyMethod(), request);
        }
        return new Attempt(ChatGrpc.getResumeReplyMethod(), ResumeReplyRequest.newBuilder()
                .setReplyId(transcript.replyId())
                .setAfterSequence(transcript.sequence())
                .setStreamOptions(options)
                .build());
    }

    private void take(TokenChunk chunk) {
        int before = transcript.sequence();
        ReplyEvent event = transcript.apply(chunk);
        // An `accepted` of a resume is no progress: a server that cuts right after it must not be asked for ever.
        if (transcript.sequence() > before || event instanceof Accepted || chunk.hasHeartbeat()) {
            patience.progressed();
        }
        if (event != null) {
            emit(event);
        }
        if (transcript.ended()) {
            attempt.sayFarewell();
            attempt = null;
            end(transcript.failure());
        }
    }

    private void emit(ReplyEvent event) {
        demand -= demand == Long.MAX_VALUE ? 0 : 1;
        watch(() -> observer.onEvent(event));
        var to = subscriber;
        if (to != null) {
            to.onNext(event);
        }
    }

    private void cut(Failure cause) {
        ParleyException error = cause.toException();
        error.initCause(attempt.origin);
        drop();
        boolean again = mayAttachAgain(error);
        boolean reached = connection.reach().reached();
        Optional<Duration> delay = again ? patience.failed(error.retryAfter(), reached) : Optional.empty();
        if (delay.isPresent()) {
            pause = later(delay.get(), () -> {
                pause = null;
                drain();
            });
            emit(new ReplyEvent.Reconnecting(patience.attempts(), delay.get(), error));
        } else if (again && transcript.accepted() != null) {
            var lost = new ConnectionLostException(
                    cause.worthAnotherAttempt(), transcript.replyId(), transcript.sequence(), transcript.text());
            lost.initCause(error);
            end(lost);
        } else {
            end(error);
        }
    }

    private boolean mayAttachAgain(ParleyException error) {
        if (error.failure().isCut() || (error.code() == Status.Code.DEADLINE_EXCEEDED && error.reason().isEmpty())) {
            return true;
        }
        // After acceptance, what says that the reply failed is not its end: that is the terminal chunk, still to be had. And
        // the reader that was cut off may count as one of the reply's readers until its server has noticed.
        return transcript.accepted() != null && (error.endsReply() || error instanceof TooManyReadersException);
    }

    private void end(RuntimeException why) {
        if (done) {
            return;
        }
        done = true;
        failure = why;
        drop();
        if (pause != null) {
            pause.cancel(false);
        }
        connection.leave(this);
        watch(why == null ? observer::onEnd : () -> observer.onError(why));
        tell();
    }

    private void tell() {
        var last = subscriber;
        subscriber = null;
        if (last != null && failure == null) {
            last.onComplete();
        } else if (last != null) {
            last.onError(failure);
        }
    }

    /** A subscriber has thrown: it gets nothing more, and its thread's handler gets what it threw. */
    private void broke(Thread thread, Throwable error) {
        cancel();
        thread.getUncaughtExceptionHandler().uncaughtException(thread, error);
    }

    /** What an observer throws is its thread's handler's as well, and harms no reader. */
    private static void watch(Runnable signal) {
        try {
            signal.run();
        } catch (RuntimeException e) {
            Thread.currentThread().getUncaughtExceptionHandler().uncaughtException(Thread.currentThread(), e);
        }
    }

    private void drop() {
        if (attempt != null) {
            attempt.end("the reader has left, or the call was cut");
            attempt = null;
        }
    }

    private Future<?> later(Duration delay, Runnable task) {
        return connection.later(delay, () -> turns.execute(task));
    }

    /** One call, and what it has brought that nobody has taken yet: chunks, then the failure that ended it. */
    private final class Attempt extends ClientCall.Listener<TokenChunk> {
        private final Queue<Object> inbox = new ArrayDeque<>();
        private final ClientCall<?, TokenChunk> call;
        private long bytes;
        private boolean asked;
        private Future<?> silence;
        /** Fires once; that of the silence where a server has been reached before. */
        private final Future<?> reaching;
        /** What the transport says of the end of the call; null before, and after a good end. */
        private Throwable origin;

        <Q> Attempt(MethodDescriptor<Q, TokenChunk> method, Q message) {
            var limit = Connection.options(connection.settings.attemptTimeout());
            ClientCall<Q, TokenChunk> made = connection.channel.newCall(method, limit);
            call = made;
            made.start(this, new Metadata());
            made.sendMessage(message);
            made.halfClose();
            silence = later(connection.settings.silence(), this::checkSilence);
            reaching = connection.reach().reached() ? silence : later(patience.unreached(), this::checkReached);
        }

        Object poll() {
            Object next = inbox.poll();
            bytes -= next instanceof TokenChunk chunk ? chunk.getSerializedSize() : 0;
            askForMore();
            return next;
        }

        private void askForMore() {
            if (!asked && bytes < AHEAD_BYTES) {
                asked = true;
                call.request(1);
            }
        }

        @Override
        public void onMessage(TokenChunk chunk) { turns.execute(() -> receive(chunk)); }

        @Override
        public void onClose(Status status, Metadata trailers) {
            var ended = status.isOk()
                    ? Failure.unavailable("the stream ended without the reply's end", true)
                    : connection.failureOf(status, trailers);
            turns.execute(() -> {
                origin = status.isOk() ? null : status.asRuntimeException(trailers);
                receive(ended);
            });
        }

        private void receive(Object received) {
            if (attempt == this) {
                waitingSince = System.nanoTime();
                inbox.add(received);
                if (received instanceof TokenChunk chunk) {
                    asked = false;
                    bytes += chunk.getSerializedSize();
                    askForMore();
                }
                drain();
            }
        }

        private void checkReached() {
            if (attempt == this && !connection.reach().reached()) {
                cut(connection.reach().unavailable());
            }
        }

        /** One timer a call, armed again only when it fires: nothing is set per chunk. */
        private void checkSilence() {
            Duration limit = connection.settings.silence();
            // Who wants more has been given all that came.
            Duration left = demand > 0 ? limit.minusNanos(System.nanoTime() - waitingSince) : limit;
            if (attempt == this && left.compareTo(Duration.ZERO) <= 0) {
                cut(connection.reach().reached()
                        ? Failure.unavailable("nothing came for " + limit.toMillis() + " ms", true)
                        : connection.reach().unavailable());
            } else if (attempt == this) {
                silence = later(left, this::checkSilence);
            }
        }

        void end(String why) {
            silence.cancel(false);
            reaching.cancel(false);
            call.cancel(why, null);
        }

        /** The status repeats what the terminal chunk said; waiting for it spares the server a cancellation. */
        void sayFarewell() {
            silence.cancel(false);
            reaching.cancel(false);
            connection.later(FAREWELL, () -> call.cancel("no status after the reply's end", null));
        }
    }
}
