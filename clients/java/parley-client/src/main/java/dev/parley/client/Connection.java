package dev.parley.client;

import dev.parley.client.errors.CredentialFailedException;
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
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.MetadataUtils;
import java.time.Duration;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.CancellationException;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.function.Supplier;

/** One channel to a server with the caller's identity, its timers, and unary calls with retries. */
final class Connection {
    private static final long CLOSE_S = 5;

    final Settings settings;
    final Channel channel;
    private final Shared shared;

    /** Null credentials are fixed ones or none: they are part of the settings. */
    Connection(
            Settings settings, CredentialSource credentials, ManagedChannelBuilder<?> channel, Threads threads, Reach reach) {
        this(settings, new Shared(
                threads,
                credentials,
                channel.executor(threads.callbacks).addTransportFilter(reach).build(),
                reach,
                ConcurrentHashMap.newKeySet(),
                new CountDownLatch(1)));
    }

    private Connection(Settings settings, Shared shared) {
        this.settings = settings;
        this.shared = shared;
        var identity = MetadataUtils.newAttachHeadersInterceptor(settings.metadata());
        var identified = ClientInterceptors.intercept(shared.transport, identity);
        channel = shared.credentials == null ? identified : ClientInterceptors.intercept(identified, shared.credentials);
    }

    /** The parts that clients for several end users share. */
    private record Shared(
            Threads threads,
            CredentialSource credentials,
            ManagedChannel transport,
            Reach reach,
            Set<Follower> followers,
            CountDownLatch closed) {}

    /** Returns a connection for another end user with the same channel and threads. */
    Connection actingFor(String endUser) {
        return new Connection(settings.actingFor(endUser), shared);
    }

    Reach reach() { return shared.reach; }

    private boolean isClosed() { return shared.closed.getCount() == 0; }

    /** The error of all calls after the client was closed. */
    static UnavailableException closedException() {
        return new UnavailableException(Failure.unavailable("the client is closed", false));
    }

    /** Ends all calls, then the threads. */
    void close() {
        shared.closed.countDown();
        shared.followers.forEach(follower -> follower.fail(closedException()));
        if (shared.credentials != null) {
            shared.credentials.close();
        }
        shared.transport.shutdownNow();
        boolean interrupted = Thread.interrupted();
        try {
            shared.transport.awaitTermination(CLOSE_S, TimeUnit.SECONDS);
        } catch (InterruptedException e) {
            interrupted = true;
        } finally {
            shared.threads.close();
            if (interrupted) {
                Thread.currentThread().interrupt();
            }
        }
    }

    /** Registers a follower, which fails when the client is closed. Returns false if it is closed already. */
    boolean enter(Follower follower) {
        shared.followers.add(follower);
        return !isClosed();
    }

    void leave(Follower follower) { shared.followers.remove(follower); }

    /** Runs the task on a callback thread after the delay. */
    Future<?> later(Duration delay, Runnable task) {
        return shared.threads.timers.schedule(() -> shared.threads.callbacks.execute(task), delay.toNanos(), TimeUnit.NANOSECONDS);
    }

    /** Connects, unless it is connected. Returns at once. */
    void connect() { shared.transport.getState(true); }

    /**
     * Makes the next call connect. A channel that could not connect fails calls at once during its own backoff of up to
     * two minutes; an idle channel connects for the next call.
     */
    void wake() {
        if (shared.transport.getState(false) == ConnectivityState.TRANSIENT_FAILURE) {
            shared.transport.enterIdle();
        }
    }

    <Q, A> A call(MethodDescriptor<Q, A> method, Q request) {
        return call(method, () -> request, settings.callTimeout(), true);
    }

    /** Calls once, without retries. */
    <Q, A> A callOnce(MethodDescriptor<Q, A> method, Q request) {
        return call(method, () -> request, settings.callTimeout(), false);
    }

    /**
     * Calls once; if {@code repeatable}, again after each cut until the backoff stops it.
     *
     * @param request makes the request of each attempt
     * @param limit of each attempt; zero is no limit
     */
    <Q, A> A call(MethodDescriptor<Q, A> method, Supplier<Q> request, Duration limit, boolean repeatable) {
        Patience patience = new Patience(settings.backoff());
        while (true) {
            if (isClosed()) {
                throw closedException();
            }
            wake();
            try {
                return once(method, options(limit), request.get(), patience);
            } catch (StatusRuntimeException status) {
                ParleyException error = errorOf(status);
                boolean again = repeatable && error.failure().mayRetry() && !isClosed();
                var delay = again ? patience.failed(error.retryAfter(), reach().reached()) : Optional.<Duration>empty();
                pause(delay.orElseThrow(() -> error));
            }
        }
    }

    private <Q, A> A once(MethodDescriptor<Q, A> method, CallOptions options, Q request, Patience patience) {
        if (reach().reached()) {
            return ClientCalls.blockingUnaryCall(channel, method, options, request);
        }
        // An executor of the application is not used here: all its threads may be blocked in calls like this one.
        var answer = ClientCalls.futureUnaryCall(channel.newCall(method, options.withExecutor(Runnable::run)), request);
        try {
            return untilReached(answer, patience.unreached());
        } catch (ExecutionException failed) {
            throw Status.fromThrowable(failed.getCause()).asRuntimeException(Status.trailersFromThrowable(failed.getCause()));
        } catch (InterruptedException e) {
            throw interrupted(e);
        } finally {
            answer.cancel(true);
        }
    }

    /** Waits for the answer; after {@code left} it stops waiting if no server has been reached. */
    private <A> A untilReached(Future<A> answer, Duration left) throws ExecutionException, InterruptedException {
        try {
            return answer.get(left.toNanos(), TimeUnit.NANOSECONDS);
        } catch (TimeoutException late) {
            if (reach().reached()) {
                return answer.get();
            }
            throw Status.UNAVAILABLE.withCause(late).asRuntimeException();
        }
    }

    /** Returns the options of one attempt; a limit of zero is no limit. */
    static CallOptions options(Duration limit) {
        return limit.isZero()
                ? CallOptions.DEFAULT
                : CallOptions.DEFAULT.withDeadlineAfter(limit.toNanos(), TimeUnit.NANOSECONDS);
    }

    /** Returns the exception of a call that ended with a status other than OK; its cause is the transport's. */
    ParleyException errorOf(Status status, Metadata trailers) {
        if (status.getCause() instanceof CredentialFailedException failed) {
            return new CredentialFailedException(failed.failure(), failed.getCause());
        }
        ParleyException error = reach().explain(Failure.of(status, trailers)).toException();
        error.initCause(status.asRuntimeException(trailers));
        return error;
    }

    private ParleyException errorOf(StatusRuntimeException status) {
        if (Thread.currentThread().isInterrupted()) {
            throw interrupted(status);
        }
        if (isClosed()) {
            ParleyException closed = closedException();
            closed.initCause(status);
            return closed;
        }
        return errorOf(status.getStatus(), status.getTrailers());
    }

    private void pause(Duration delay) {
        try {
            shared.closed.await(delay.toNanos(), TimeUnit.NANOSECONDS);
        } catch (InterruptedException e) {
            throw interrupted(e);
        }
    }

    /** Sets the thread's interrupt flag again and returns the exception of the interrupted call. */
    static CancellationException interrupted(Exception cause) {
        Thread.currentThread().interrupt();
        var cancelled = new CancellationException("the thread was interrupted");
        cancelled.initCause(cause);
        return cancelled;
    }
}
