package dev.parley.client;

import dev.parley.client.ReplyEvent.Accepted;
import dev.parley.client.errors.ConnectionLostException;
import dev.parley.client.errors.CredentialFailedException;
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
 * Reads one reply over several calls, and passes its events to a subscriber on demand. The iterator, the listener and
 * the publisher are built on it.
 *
 * <p>Its state is used only in {@code serial}, which runs one task at a time on the thread that submitted it, so that
 * signals are serial and a subscriber that requests more in a signal does not recurse. At most {@link #AHEAD_BYTES} and
 * one chunk are buffered; then HTTP/2's flow control slows the server down.
 */
final class Follower implements Flow.Subscription {
    private static final int AHEAD_BYTES = 64 * 1024;
    /** How long to wait for the status of a call after its terminal chunk. */
    private static final Duration STATUS_WAIT = Duration.ofSeconds(1);

    private final SynchronizationContext serial = new SynchronizationContext(this::onThrown);
    private final Connection connection;
    private final Transcript transcript;
    private final ReplyRequest request;
    private final StreamOptions options;
    private final Patience patience;
    /** Volatile, so that a task that is running on another thread stops at once. */
    private volatile boolean closed;
    /** Null before the start, after the end, and after {@link #cancel}. */
    private volatile Flow.Subscriber<? super ReplyEvent> subscriber;

    private ReplyListener observer = event -> {};
    private long demand;
    private long waitingSince;
    private Attempt attempt;
    private Future<?> pause;
    private boolean done;
    private RuntimeException failure;

    /** A null request resumes the reply of the transcript. */
    Follower(Connection connection, Transcript transcript, ReplyRequest request, StreamOptions options) {
        this.connection = connection;
        this.transcript = transcript;
        this.request = request;
        this.options = options;
        this.patience = new Patience(connection.settings.backoff());
    }

    /** Subscribes the subscriber. The first call starts with its first demand. */
    void start(Flow.Subscriber<? super ReplyEvent> to) {
        serial.execute(() -> {
            subscriber = to;
            if (!done) {
                observe(() -> observer = connection.settings.observer().get());
            }
            to.onSubscribe(this);
            if (done) {
                signalEnd();
            } else if (!connection.enter(this)) {
                end(Connection.closedException());
            }
        });
    }

    @Override
    public void request(long count) {
        serial.execute(() -> {
            if (count <= 0) {
                end(new IllegalArgumentException("§3.9: at least one event must be requested, not " + count));
            }
            waitingSince = demand == 0 ? System.nanoTime() : waitingSince;
            demand = demand + count < 0 ? Long.MAX_VALUE : demand + count;
            drain();
        });
    }

    /** Ends the call without a further signal to the subscriber. */
    @Override
    public void cancel() {
        subscriber = null;
        close();
    }

    /** Ends the call, not the reply, and completes the subscriber. */
    void close() {
        closed = true;
        fail(null);
    }

    /** Ends the call with a failure of the reader or the client; null completes the subscriber. */
    void fail(RuntimeException why) { serial.execute(() -> end(why)); }

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
                cut((ParleyException) next);
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
        // A repeated `accepted` is not progress: a server that always cuts after it would be retried forever.
        if (transcript.sequence() > before || event instanceof Accepted || chunk.hasHeartbeat()) {
            patience.progressed();
        }
        if (event != null) {
            emit(event);
        }
        if (transcript.ended()) {
            attempt.awaitStatus();
            attempt = null;
            end(transcript.failure());
        }
    }

    private void emit(ReplyEvent event) {
        demand -= demand == Long.MAX_VALUE ? 0 : 1;
        observe(() -> observer.onEvent(event));
        var to = subscriber;
        if (to != null) {
            to.onNext(event);
        }
    }

    private void cut(ParleyException error) {
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
                    error.failure().worthAnotherAttempt(), transcript.replyId(), transcript.sequence(), transcript.text());
            lost.initCause(error);
            end(lost);
        } else {
            end(error);
        }
    }

    private boolean mayAttachAgain(ParleyException error) {
        if (error.failure().mayRetry() || (error.code() == Status.Code.DEADLINE_EXCEEDED && error.reason().isEmpty())) {
            return true;
        }
        // After acceptance, a status that reports a failed reply was sent instead of the terminal chunk, which a new
        // call reads. TooManyReaders may count the reader that was cut off, until its server has noticed the cut. A
        // credential may be available again soon. A proxy that limits its load ends streams with RESOURCE_EXHAUSTED;
        // before acceptance, this may also be a request that is too large.
        boolean limited = error.code() == Status.Code.RESOURCE_EXHAUSTED && error.reason().isEmpty();
        boolean again = error.endsReply()
                || limited
                || error instanceof TooManyReadersException
                || error instanceof CredentialFailedException;
        return transcript.accepted() != null && again;
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
        observe(why == null ? observer::onEnd : () -> observer.onError(why));
        signalEnd();
    }

    private void signalEnd() {
        var last = subscriber;
        subscriber = null;
        if (last != null && failure == null) {
            last.onComplete();
        } else if (last != null) {
            last.onError(failure);
        }
    }

    /** Cancels after an exception of the subscriber, and passes it to the thread's handler of uncaught exceptions. */
    private void onThrown(Thread thread, Throwable error) {
        cancel();
        thread.getUncaughtExceptionHandler().uncaughtException(thread, error);
    }

    /** Calls the observer; its exceptions go to the thread's handler of uncaught exceptions, not to the reader. */
    private static void observe(Runnable signal) {
        try {
            signal.run();
        } catch (RuntimeException e) {
            Thread.currentThread().getUncaughtExceptionHandler().uncaughtException(Thread.currentThread(), e);
        }
    }

    private void drop() {
        if (attempt != null) {
            attempt.end("the reader closed the stream, or the call was cut");
            attempt = null;
        }
    }

    private Future<?> later(Duration delay, Runnable task) {
        return connection.later(delay, () -> serial.execute(task));
    }

    /** One call and its unread chunks, followed by the exception that ended it. */
    private final class Attempt extends ClientCall.Listener<TokenChunk> {
        private final Queue<Object> inbox = new ArrayDeque<>();
        private final ClientCall<?, TokenChunk> call;
        private long bytes;
        private boolean requested;
        private Future<?> silence;
        /** Runs once. It is the silence timer if a server has been reached before. */
        private final Future<?> reaching;

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
            requestMore();
            return next;
        }

        private void requestMore() {
            if (!requested && bytes < AHEAD_BYTES) {
                requested = true;
                call.request(1);
            }
        }

        @Override
        public void onMessage(TokenChunk chunk) { serial.execute(() -> receive(chunk)); }

        @Override
        public void onClose(Status status, Metadata trailers) {
            var ended = status.isOk()
                    ? Failure.unavailable("the stream ended before the end of the reply", true).toException()
                    : connection.errorOf(status, trailers);
            serial.execute(() -> receive(ended));
        }

        private void receive(Object received) {
            if (attempt == this) {
                waitingSince = System.nanoTime();
                inbox.add(received);
                if (received instanceof TokenChunk chunk) {
                    requested = false;
                    bytes += chunk.getSerializedSize();
                    requestMore();
                }
                drain();
            }
        }

        private void checkReached() {
            if (attempt == this && !connection.reach().reached()) {
                cut(connection.reach().unavailable().toException());
            }
        }

        /** One timer per call, set again only when it fires, since a new timer per chunk would cost CPU. */
        private void checkSilence() {
            Duration limit = connection.settings.silence();
            // The silence counts only while the subscriber waits: all chunks that arrived were passed on.
            Duration left = demand > 0 ? limit.minusNanos(System.nanoTime() - waitingSince) : limit;
            if (attempt == this && left.compareTo(Duration.ZERO) <= 0) {
                Failure silent = connection.reach().reached()
                        ? Failure.unavailable("the stream was silent for " + limit.toMillis() / 1e3 + " s", true)
                        : connection.reach().unavailable();
                cut(silent.toException());
            } else if (attempt == this) {
                silence = later(left, this::checkSilence);
            }
        }

        void end(String why) {
            silence.cancel(false);
            reaching.cancel(false);
            call.cancel(why, null);
        }

        /** Waits for the status of the call, so that the server does not see a cancelled call. */
        void awaitStatus() {
            silence.cancel(false);
            reaching.cancel(false);
            connection.later(STATUS_WAIT, () -> call.cancel("no status after the terminal chunk", null));
        }
    }
}
