package dev.parley.client;

import dev.parley.client.errors.Failure;
import dev.parley.client.errors.ParleyException;
import dev.parley.client.errors.UnavailableException;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientInterceptors;
import io.grpc.ConnectivityState;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.MetadataUtils;
import java.time.Duration;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.CancellationException;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;

/** One channel to a server with the caller's identity, its timers, and unary calls that try again by themselves. */
final class Connection {
    private static final long CLOSE_S = 5;

    final Settings settings;
    final Channel channel;
    private final Identity identity;
    private final Threads threads;
    private final ManagedChannel transport;
    private final Set<Follower> followers;
    private final CountDownLatch closed;

    Connection(Settings settings, Identity identity, ManagedChannelBuilder<?> channel, Threads threads) {
        this(settings, identity, threads, channel.executor(threads.callbacks()).build(),
                ConcurrentHashMap.newKeySet(), new CountDownLatch(1));
    }

    private Connection(Settings settings, Identity identity, Threads threads, ManagedChannel transport,
            Set<Follower> followers, CountDownLatch closed) {
        this.settings = settings;
        this.identity = identity;
        this.threads = threads;
        this.transport = transport;
        this.followers = followers;
        this.closed = closed;
        channel = ClientInterceptors.intercept(
                transport, MetadataUtils.newAttachHeadersInterceptor(identity.metadata()));
    }

    /** The same connection, for another end user. */
    Connection actingFor(String endUser) {
        return new Connection(settings, identity.withEndUser(endUser), threads, transport, followers, closed);
    }

    boolean isClosed() {
        return closed.getCount() == 0;
    }

    /** What every call fails with once the client is closed. */
    static UnavailableException closedException() {
        return new UnavailableException(Failure.unavailable("the client is closed", false));
    }

    /** Ends every call, then the threads. */
    void close() {
        closed.countDown();
        followers.forEach(follower -> follower.fail(closedException()));
        transport.shutdownNow();
        boolean interrupted = Thread.interrupted();
        try {
            transport.awaitTermination(CLOSE_S, TimeUnit.SECONDS);
        } catch (InterruptedException e) {
            interrupted = true;
        } finally {
            threads.close();
            if (interrupted) {
                Thread.currentThread().interrupt();
            }
        }
    }

    /** Whoever follows a reply says so, to be told of the end of the client. False: it has ended. */
    boolean enter(Follower follower) {
        followers.add(follower);
        return !isClosed();
    }

    void leave(Follower follower) {
        followers.remove(follower);
    }

    /** Runs the task on a callback thread after the delay. */
    Future<?> later(Duration delay, Runnable task) {
        return threads.timers().schedule(() -> threads.callbacks().execute(task), delay.toNanos(), TimeUnit.NANOSECONDS);
    }

    /**
     * Makes the next call try to connect. A channel that could not connect fails calls at once until a backoff of its own,
     * of up to two minutes, has passed; one that is idle connects for the next call, which waits for the outcome.
     */
    void wake() {
        if (transport.getState(false) == ConnectivityState.TRANSIENT_FAILURE) {
            transport.enterIdle();
        }
    }

    <Q, A> A call(MethodDescriptor<Q, A> method, Q request) {
        return call(method, () -> request, settings.callTimeout(), true);
    }

    /** Calls once, or, where repeatable, again after each cut for as long as the backoff allows; a limit of zero is none. */
    <Q, A> A call(MethodDescriptor<Q, A> method, Supplier<Q> request, Duration limit, boolean repeatable) {
        Patience patience = new Patience(settings.backoff());
        while (true) {
            if (isClosed()) {
                throw closedException();
            }
            wake();
            try {
                return ClientCalls.blockingUnaryCall(channel, method, options(limit), request.get());
            } catch (StatusRuntimeException status) {
                pause(patience, failed(status), repeatable);
            }
        }
    }

    /** Options of one attempt; a limit of zero is none. */
    static CallOptions options(Duration limit) {
        return limit.isZero()
                ? CallOptions.DEFAULT
                : CallOptions.DEFAULT.withDeadlineAfter(limit.toNanos(), TimeUnit.NANOSECONDS);
    }

    private ParleyException failed(StatusRuntimeException status) {
        if (Thread.currentThread().isInterrupted()) {
            throw interrupted(status);
        }
        ParleyException error =
                isClosed() ? closedException() : Failure.of(status.getStatus(), status.getTrailers()).toException();
        error.initCause(status);
        return error;
    }

    private void pause(Patience patience, ParleyException error, boolean repeatable) {
        boolean again = repeatable && error.failure().isCut() && !isClosed();
        Optional<Duration> delay = again ? patience.failed(error.retryAfter()) : Optional.empty();
        if (delay.isEmpty()) {
            throw error;
        }
        try {
            closed.await(delay.get().toNanos(), TimeUnit.NANOSECONDS);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            throw interrupted(e);
        }
    }

    /** A thread that is interrupted keeps its flag, and learns why the call ended. */
    static CancellationException interrupted(Exception cause) {
        var cancelled = new CancellationException("the thread was interrupted");
        cancelled.initCause(cause);
        return cancelled;
    }
}
