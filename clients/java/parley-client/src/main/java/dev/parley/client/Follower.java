package dev.parley.client;

import dev.parley.client.ReplyEvent.Accepted;
import dev.parley.client.errors.ConnectionLostException;
import dev.parley.client.errors.Failure;
import dev.parley.client.errors.InternalErrorException;
import dev.parley.client.errors.ParleyException;
import dev.parley.client.errors.ReplyFailedException;
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
import java.util.concurrent.Future;

/**
 * Follows one reply over as many calls as it takes, and gives its events to a sink as the sink asks for them. The one
 * engine below the iterator, the listener and the publisher.
 *
 * <p>All its state is touched in {@code turns} alone, one task at a time, on whatever thread brought the task: that makes
 * signals serial and keeps a sink that asks for more within a signal from recursing. It reads at most {@link #AHEAD} chunks
 * ahead of its sink; beyond them HTTP/2's flow control holds the server back.
 */
final class Follower {
    /** Where events go; called serially, {@code ended} once and last. */
    interface Sink {
        void event(ReplyEvent event);

        /** The failure is null where the reply finished or the stream was closed. */
        void ended(RuntimeException failure);
    }

    private static final int AHEAD = 16;
    /** How long a call may take to say its status after its terminal chunk, before it is dropped. */
    private static final Duration FAREWELL = Duration.ofSeconds(1);

    private final SynchronizationContext turns = new SynchronizationContext(this::broke);
    private final Connection connection;
    private final Transcript transcript;
    private final ReplyRequest request;
    private final StreamOptions options;
    private final Patience patience;
    private final StreamWatch watch;
    /** Nothing more is wanted: seen at once by a turn that is running on another thread. */
    private volatile boolean closed;
    /** Null before the start and after the end, and once it is forgotten. */
    private volatile Sink sink;

    private long demand;
    private Attempt attempt;
    private Future<?> pause;
    private boolean done;

    /** A request that is null is a reply to resume. */
    Follower(Connection connection, Transcript transcript, ReplyRequest request, StreamOptions options) {
        this.connection = connection;
        this.transcript = transcript;
        this.request = request;
        this.options = options;
        this.patience = new Patience(connection.settings.backoff());
        this.watch = new StreamWatch(connection.settings.observer());
    }

    /** Begins to feed the sink, with the task as the first turn. Nothing is called before the first demand. */
    void start(Sink to, Runnable first) {
        turns.execute(() -> {
            sink = to;
            watch.started();
            first.run();
            if (done) {
                tell(null);
            } else if (!connection.enter(this)) {
                end(Connection.closedException());
            }
        });
    }

    /** So many more events are wanted. */
    void request(long count) {
        turns.execute(() -> {
            demand = demand + count < 0 ? Long.MAX_VALUE : demand + count;
            drain();
        });
    }

    /** Ends the call, not the reply, and tells the sink. */
    void close() {
        closed = true;
        turns.execute(() -> end(null));
    }

    /** Ends the call, and lets go of the sink without a word. */
    void forget() {
        sink = null;
        close();
    }

    /** Ends the call with a failure of the reader's or the client's own. */
    void fail(RuntimeException failure) {
        turns.execute(() -> end(failure));
    }

    private void drain() {
        while (demand > 0 && pause == null && !done && !closed) {
            if (attempt == null) {
                attach();
            }
            Object next = attempt.inbox.poll();
            if (next == null) {
                attempt.await();
                return;
            }
            if (next instanceof TokenChunk chunk) {
                take(chunk);
            } else {
                cut((Failure) next);
            }
        }
    }

    private void attach() {
        connection.wake();
        if (request != null && transcript.replyId().isEmpty()) {
            attempt = new Attempt();
            attempt.start(ChatGrpc.getStreamReplyMethod(), request);
            return;
        }
        attempt = new Attempt();
        attempt.start(ChatGrpc.getResumeReplyMethod(), ResumeReplyRequest.newBuilder()
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
        demand = demand == Long.MAX_VALUE ? demand : demand - 1;
        watch.event(event);
        Sink to = sink;
        if (to != null) {
            to.event(event);
        }
    }

    private void cut(Failure failure) {
        attempt.drop("cut");
        attempt = null;
        ParleyException error = failure.toException();
        boolean again = mayAttachAgain(error);
        Optional<Duration> delay = again ? patience.failed(error.retryAfter()) : Optional.empty();
        if (delay.isPresent()) {
            pause = connection.later(delay.get(), () -> turns.execute(() -> {
                pause = null;
                drain();
            }));
            emit(new ReplyEvent.Reconnecting(patience.attempts(), delay.get(), error));
        } else if (again && transcript.accepted() != null) {
            end(new ConnectionLostException(failure, transcript.replyId(), transcript.sequence(), transcript.text()));
        } else {
            end(error);
        }
    }

    private boolean mayAttachAgain(ParleyException error) {
        boolean spoken = !error.reason().isEmpty();
        if (error.failure().isCut() || (error.code() == Status.Code.DEADLINE_EXCEEDED && !spoken)) {
            return true;
        }
        // After acceptance, what says that the reply failed is not its end: that is the terminal chunk, still to be had. And
        // the reader that was cut off may count as one of the reply's readers until its server has noticed.
        boolean endsReply = spoken && (error instanceof ReplyFailedException || error instanceof InternalErrorException);
        return transcript.accepted() != null && (endsReply || error instanceof TooManyReadersException);
    }

    private void end(RuntimeException failure) {
        if (done) {
            return;
        }
        done = true;
        if (attempt != null) {
            attempt.drop("the reader has left");
            attempt = null;
        }
        if (pause != null) {
            pause.cancel(false);
        }
        connection.leave(this);
        watch.ended(transcript, failure);
        tell(failure);
    }

    private void tell(RuntimeException failure) {
        Sink last = sink;
        sink = null;
        if (last != null) {
            last.ended(failure);
        }
    }

    /** A sink has thrown: it gets nothing more, and its thread's handler gets what it threw. */
    private void broke(Thread thread, Throwable error) {
        forget();
        thread.getUncaughtExceptionHandler().uncaughtException(thread, error);
    }

    /** One call, and what it has brought that nobody has taken yet: chunks, then the failure that ended it. */
    private final class Attempt extends ClientCall.Listener<TokenChunk> {
        final Queue<Object> inbox = new ArrayDeque<>();
        private ClientCall<?, TokenChunk> call;
        private int asked;
        private boolean waiting;
        private long waitingSince;
        private Future<?> silence;
        private Future<?> farewell;

        <Q> void start(MethodDescriptor<Q, TokenChunk> method, Q message) {
            ClientCall<Q, TokenChunk> made = connection.channel.newCall(
                    method, Connection.options(connection.settings.attemptTimeout()));
            call = made;
            made.start(this, new Metadata());
            made.sendMessage(message);
            made.halfClose();
        }

        /** The sink waits: asks for more, and bounds the wait. */
        void await() {
            if (asked == 0) {
                asked = AHEAD;
                call.request(AHEAD);
            }
            if (!waiting) {
                waiting = true;
                waitingSince = System.nanoTime();
            }
            if (silence == null) {
                silence = connection.later(connection.settings.silence(), () -> turns.execute(this::checkSilence));
            }
        }

        @Override
        public void onMessage(TokenChunk chunk) {
            turns.execute(() -> {
                asked--;
                receive(chunk);
            });
        }

        @Override
        public void onClose(Status status, Metadata trailers) {
            Failure failure = status.isOk()
                    ? Failure.unavailable("the stream ended without the reply's end", true)
                    : Failure.of(status, trailers);
            turns.execute(() -> {
                if (farewell != null) {
                    farewell.cancel(false);
                }
                receive(failure);
            });
        }

        private void receive(Object received) {
            if (attempt == this) {
                waiting = false;
                inbox.add(received);
                drain();
            }
        }

        /** One timer a call, armed again only when it fires: nothing is set per chunk. */
        private void checkSilence() {
            if (attempt != this) {
                return;
            }
            silence = null;
            Duration limit = connection.settings.silence();
            Duration left = waiting ? limit.minusNanos(System.nanoTime() - waitingSince) : limit;
            if (left.isNegative() || left.isZero()) {
                cut(Failure.unavailable("nothing came for " + limit.toMillis() + " ms", true));
            } else if (waiting) {
                silence = connection.later(left, () -> turns.execute(this::checkSilence));
            }
        }

        void drop(String why) {
            stopWatching();
            call.cancel(why, null);
        }

        /** The status repeats what the terminal chunk said; waiting for it spares the server a cancellation. */
        void sayFarewell() {
            stopWatching();
            call.request(AHEAD);
            farewell = connection.later(FAREWELL, () -> call.cancel("no status after the reply's end", null));
        }

        private void stopWatching() {
            if (silence != null) {
                silence.cancel(false);
            }
        }
    }
}
